"""The rows of the library table, one module per library or family; libraries are imported when a row is compared."""

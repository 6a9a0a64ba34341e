"""What the person reads: failure blocks, summaries, tables, JSON, HTML and scripts that replay a failure."""

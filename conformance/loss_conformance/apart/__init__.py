"""The engine in a process of its own, so that whatever a loss does to its process ends with that one.

A forked child holds the loss and answers what the doors ask. When it dies (``os.abort``, ``os._exit``, a crash in native
code, the kernel's memory killer) or hangs where no signal reaches Python, its parent says so of the check that was
running, and goes on with another child.
"""

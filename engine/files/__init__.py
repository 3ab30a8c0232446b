"""Every file system call of the engine, and the life of a part's file."""

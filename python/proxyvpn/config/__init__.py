"""Where an option of `up` may be set besides the command line, and what it was set to in the end."""

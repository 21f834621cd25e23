"""Commands: `fastreid-parts NAME`; `command_line` says what a module here has to have."""

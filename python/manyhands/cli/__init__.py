"""manyhands in the shell: one file per command, and what the commands share."""

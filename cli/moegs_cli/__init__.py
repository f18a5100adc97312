"""The command line of moegs; one file a command, imported when the command runs."""

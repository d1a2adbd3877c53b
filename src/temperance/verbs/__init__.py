"""The verbs, the same from Python and from the shell: one private file each."""

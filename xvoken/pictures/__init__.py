"""From where pictures lie to the pixels that a tower takes."""

"""sewkit."""

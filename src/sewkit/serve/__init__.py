"""The server: transcription over HTTP and WebSocket, with compute that follows the load."""

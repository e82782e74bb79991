"""The server: recordings over HTTP as OpenAI's API takes them, and live sound by websocket."""

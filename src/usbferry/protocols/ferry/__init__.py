"""ferry, version 1: this project's own protocol. The specification is docs/protocols/ferry.md; § means its sections."""

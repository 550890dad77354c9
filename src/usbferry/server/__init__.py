"""The exporting side: a catalog of what is offered, a listener, and the pump between one importer and one device."""

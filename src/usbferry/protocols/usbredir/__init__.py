"""usbredir 0.7, as QEMU, libvirt and SPICE speak it, and its draft 0.2."""

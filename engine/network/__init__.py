"""What line there is, from whoever knows: the kernel, NetworkManager, or the host."""

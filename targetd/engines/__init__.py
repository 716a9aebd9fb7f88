"""What touches the host: programs, LVM, and LIO's configfs; and their simulations."""

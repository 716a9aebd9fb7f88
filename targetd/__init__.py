"""targetd: LVM volumes and LIO iSCSI targets, driven over gRPC."""

__version__ = "0.1.0"

"""Files by location: on this machine, in object storage, in this package; and who may read them."""

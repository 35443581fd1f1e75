"""What people read: a terminal and a page made of the same facts."""

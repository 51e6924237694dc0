//! The kernel's side of manyhands. Raw system calls stand only in `sys`.

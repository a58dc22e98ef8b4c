//! `.eh_frame` compiled to the compact tables that the kernel side searches.

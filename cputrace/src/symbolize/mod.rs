//! Names, inlined functions and source lines of locations, through blazesym.

//! Names as a user reads them: Rust without the hash, C++ with its parameters, everything else as it is.

use std::borrow::Cow;

/// The readable form of a symbol's name.
pub(super) fn demangle(name: &str) -> Cow<'_, str> {
    if let Ok(rust) = rustc_demangle::try_demangle(name) {
        return format!("{rust:#}").into();
    }
    if name.starts_with("_Z")
        && let Ok(symbol) = cpp_demangle::Symbol::new(name)
        && let Ok(text) = symbol.demangle()
    {
        return text.into();
    }
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One name of each language, as `rustfilt` and `c++filt` show them.
    #[test]
    fn readable_names() {
        let check = |mangled, readable| assert_eq!(demangle(mangled), readable);
        check("_ZN4core3fmt9Formatter3pad17h0123456789abcdefE", "core::fmt::Formatter::pad");
        check("_RNvC6_123foo3bar", "123foo::bar");
        check("_ZNSt6vectorIiSaIiEE9push_backEOi", "std::vector<int, std::allocator<int> >::push_back(int&&)");
        check("main", "main");
        check("_Zgarbage", "_Zgarbage");
    }
}

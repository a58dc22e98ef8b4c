//! Names as a user reads them: Rust without the hash, C++ with its parameters, everything else as it is.

use std::borrow::Cow;
use std::fmt::{self, Write};

use cpp_demangle::DemangleOptions;

/// A readable name that would be longer stays mangled: a few hundred bytes can stand for gigabytes of C++.
const MAX_NAME_BYTES: usize = 16 << 10;

/// The readable form of a symbol's name.
pub(super) fn demangle(name: &str) -> Cow<'_, str> {
    let mut readable = Bounded(String::new());
    if let Ok(rust) = rustc_demangle::try_demangle(name) {
        if write!(readable, "{rust:#}").is_ok() {
            return readable.0.into();
        }
    } else if name.starts_with("_Z")
        && let Ok(symbol) = cpp_demangle::Symbol::new(without_llvm_suffix(name))
        && symbol.structured_demangle(&mut readable, &DemangleOptions::default()).is_ok()
    {
        return without_empty_packs(readable.0).into();
    }
    name.into()
}

/// LLVM gives a function a number of its own when it becomes visible to other units: no reader knows it.
fn without_llvm_suffix(name: &str) -> &str {
    name.rsplit_once(".llvm.")
        .filter(|(_, number)| number.bytes().all(|digit| digit.is_ascii_digit()))
        .map_or(name, |(name, _)| name)
}

/// cpp_demangle leaves a comma where a pack of parameters is empty.
fn without_empty_packs(name: String) -> String {
    if name.contains(", >") || name.contains(", )") { name.replace(", >", ">").replace(", )", ")") } else { name }
}

/// A text that refuses to grow beyond [`MAX_NAME_BYTES`].
struct Bounded(String);

impl Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.0.len() + text.len() > MAX_NAME_BYTES {
            return Err(fmt::Error);
        }
        self.0.push_str(text);
        Ok(())
    }
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
        check("_ZN3foo3barEi.cold", "foo::bar(int) [clone .cold]");
        check("_ZN4llvm15AnalysisManagerINS_8FunctionEJEE3runEv", "llvm::AnalysisManager<llvm::Function>::run()");
        check("_ZN3foo3barEv.llvm.1234567890", "foo::bar()");
        check("main", "main");
        check("_Zgarbage", "_Zgarbage");
    }

    /// A short name whose parameters are pairs of pairs of pairs, some 2^34 bytes written out, stays as it is.
    #[test]
    fn endless_names_stay_mangled() {
        let pairs_of = |index: u32| char::from_digit(index, 36).unwrap_or_default().to_ascii_uppercase();
        let pairs = |levels| (0..levels).map(|index| format!("S_IS{0}_S{0}_E", pairs_of(index))).collect::<String>();
        assert_eq!(demangle(&format!("_Z1f1pIiiE{}", pairs(1))), "f(p<int, int>, p<p<int, int>, p<int, int> >)");
        let name = format!("_Z1f1pIiiE{}", pairs(30));
        assert_eq!(demangle(&name), name);
    }
}

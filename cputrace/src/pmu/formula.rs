//! Formulas over counts: numbers, names, + - * /, parentheses. A division by zero or a missing count is no data, never 0.
//!
//! Tokens stand apart by blanks, so that names may have hyphens.

/// A formula, as it is evaluated: operands first.
#[derive(Clone, PartialEq, Debug)]
pub struct Formula {
    steps: Vec<Step>,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Step {
    Number(f64),
    Name(&'static str),
    Operator(char),
}

/// What is on the stack while parsing.
fn precedence(operator: char) -> u8 {
    match operator {
        '*' | '/' => 2,
        '+' | '-' => 1,
        _ => 0,
    }
}

impl Formula {
    /// Parses the text; `None` where it is no formula.
    pub fn parse(text: &'static str) -> Option<Self> {
        let mut steps = Vec::new();
        let mut operators: Vec<char> = Vec::new();
        // Whether a number, a name or a parenthesis has to come now.
        let mut operand = true;
        for token in text.split_ascii_whitespace() {
            let operator = token.chars().next().filter(|_| token.len() == 1).unwrap_or(' ');
            match operator {
                '(' if operand => operators.push('('),
                ')' if !operand => loop {
                    match operators.pop()? {
                        '(' => break,
                        operator => steps.push(Step::Operator(operator)),
                    }
                },
                '+' | '-' | '*' | '/' if !operand => {
                    while operators.last().is_some_and(|last| precedence(*last) >= precedence(operator)) {
                        steps.extend(operators.pop().map(Step::Operator));
                    }
                    operators.push(operator);
                    operand = true;
                }
                _ if operand => {
                    let first = token.chars().next()?;
                    steps.push(if first.is_ascii_digit() {
                        Step::Number(token.parse().ok()?)
                    } else if first.is_ascii_lowercase() {
                        Step::Name(token)
                    } else {
                        return None;
                    });
                    operand = false;
                }
                _ => return None,
            }
        }
        while let Some(operator) = operators.pop() {
            steps.push(Step::Operator(Some(operator).filter(|operator| *operator != '(')?));
        }
        (!operand).then_some(Self { steps })
    }

    /// The names in it, in order, each once.
    pub fn names(&self) -> Vec<&'static str> {
        let mut names = Vec::new();
        for step in &self.steps {
            if let Step::Name(name) = step
                && !names.contains(name)
            {
                names.push(*name);
            }
        }
        names
    }

    /// Its value, by the values of its names.
    pub fn value(&self, of: &dyn Fn(&str) -> Option<f64>) -> Option<f64> {
        let mut stack: Vec<f64> = Vec::new();
        for step in &self.steps {
            let value = match *step {
                Step::Number(number) => number,
                Step::Name(name) => of(name)?,
                Step::Operator(operator) => {
                    let (right, left) = (stack.pop()?, stack.pop()?);
                    match operator {
                        '+' => left + right,
                        '-' => left - right,
                        '*' => left * right,
                        _ => left / right,
                    }
                }
            };
            if !value.is_finite() {
                return None;
            }
            stack.push(value);
        }
        stack.pop()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &'static str) -> Option<f64> {
        Formula::parse(text)?.value(&|name| match name {
            "a" => Some(6.0),
            "b-c" => Some(4.0),
            "zero" => Some(0.0),
            _ => None,
        })
    }

    #[test]
    fn values() {
        assert_eq!(value("a + b-c * 2"), Some(14.0));
        assert_eq!(value("( a + b-c ) * 2"), Some(20.0));
        assert_eq!(value("a - b-c - 1"), Some(1.0));
        assert_eq!(value("a / b-c / 3"), Some(0.5));
        assert_eq!(value("0.5e1 * a"), Some(30.0));
    }

    #[test]
    fn no_data() {
        assert_eq!(value("a / zero"), None);
        assert_eq!(value("zero / zero"), None);
        assert_eq!(value("a + missing"), None);
        // Though what is divided away would be 0.
        assert_eq!(value("zero * ( a / zero )"), None);
    }

    #[test]
    fn no_formulas() {
        for text in ["", "a b", "a +", "+ a", "( a", "a )", "a + * a", "()", "A", "1x", "a & a"] {
            assert_eq!(Formula::parse(text), None, "{text}");
        }
    }

    #[test]
    fn names_once() {
        assert_eq!(Formula::parse("a / ( a + b-c )").map(|formula| formula.names()), Some(vec!["a", "b-c"]));
    }
}

//! The text form of label selectors: a lexer and a parser of one token's lookahead.

use super::{Operator, Requirement, check_key};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    End,
    Error,
    Identifier,
    Comma,
    Open,
    Close,
    Not,
    In,
    NotIn,
    Sign(Operator),
}

#[derive(Clone, Debug)]
struct Token {
    kind: Kind,
    text: String,
}

fn is_special(c: char) -> bool {
    matches!(c, '=' | '!' | '(' | ')' | ',' | '>' | '<')
}

fn special(text: &str) -> Option<Kind> {
    Some(match text {
        ")" => Kind::Close,
        "," => Kind::Comma,
        "!" => Kind::Not,
        "==" => Kind::Sign(Operator::DoubleEquals),
        "=" => Kind::Sign(Operator::Equals),
        ">" => Kind::Sign(Operator::GreaterThan),
        "<" => Kind::Sign(Operator::LessThan),
        "!=" => Kind::Sign(Operator::NotEquals),
        "(" => Kind::Open,
        _ => return None,
    })
}

/// Splits the text; the longest sign wins.
fn tokens(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches([' ', '\t', '\r', '\n']);
        let Some(first) = rest.chars().next() else { break };
        let (kind, length) = if is_special(first) {
            let two = rest.get(..2).and_then(special).map(|kind| (kind, 2));
            two.or_else(|| special(&rest[..1]).map(|kind| (kind, 1))).unwrap_or((Kind::Error, 1))
        } else {
            let end = rest.find(|c: char| is_special(c) || c.is_ascii_whitespace()).unwrap_or(rest.len());
            let kind = match &rest[..end] {
                "in" => Kind::In,
                "notin" => Kind::NotIn,
                _ => Kind::Identifier,
            };
            // Other white space (a form feed) is nobody's: one character of error.
            if end == 0 { (Kind::Error, first.len_utf8()) } else { (kind, end) }
        };
        tokens.push(Token { kind, text: rest[..length].to_owned() });
        rest = &rest[length..];
    }
    tokens.push(Token { kind: Kind::End, text: String::new() });
    tokens
}

struct Parser {
    tokens: Vec<Token>,
    position: usize,
}

impl Parser {
    /// The next token where an operator may stand.
    fn operator(&mut self) -> Token {
        let token = self.tokens[self.position.min(self.tokens.len() - 1)].clone();
        self.position += 1;
        token
    }

    /// The next token where a key or value may stand: `in` and `notin` are plain words there.
    fn next(&mut self) -> Token {
        let mut token = self.operator();
        if matches!(token.kind, Kind::In | Kind::NotIn) {
            token.kind = Kind::Identifier;
        }
        token
    }

    fn peek(&mut self) -> Token {
        let token = self.next();
        self.position -= 1;
        token
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        let mut token = self.next();
        let absent = token.kind == Kind::Not;
        if absent {
            token = self.next();
        }
        if token.kind != Kind::Identifier {
            return Err(format!("found '{}', expected: identifier", token.text));
        }
        let key = token.text;
        check_key(&key)?;
        if absent {
            return Requirement::new(key, Operator::DoesNotExist, Vec::new());
        }
        if matches!(self.peek().kind, Kind::End | Kind::Comma) {
            return Requirement::new(key, Operator::Exists, Vec::new());
        }
        let token = self.operator();
        let (operator, values) = match token.kind {
            Kind::In => (Operator::In, self.values()?),
            Kind::NotIn => (Operator::NotIn, self.values()?),
            Kind::Sign(operator) => (operator, vec![self.value()?]),
            _ => return Err(format!("found '{}', expected: in, notin, =, ==, !=, gt, lt", token.text)),
        };
        Requirement::new(key, operator, values)
    }

    /// What follows `=`; nothing is the empty value.
    fn value(&mut self) -> Result<String, String> {
        if matches!(self.peek().kind, Kind::End | Kind::Comma) {
            return Ok(String::new());
        }
        let token = self.next();
        if token.kind == Kind::Identifier {
            return Ok(token.text);
        }
        Err(format!("found '{}', expected: identifier", token.text))
    }

    /// What follows `in`: `(a,b)`, where a missing word is the empty value.
    fn values(&mut self) -> Result<Vec<String>, String> {
        let token = self.next();
        if token.kind != Kind::Open {
            return Err(format!("found '{}' expected: '('", token.text));
        }
        let mut values = Vec::new();
        loop {
            let token = self.next();
            match token.kind {
                Kind::Identifier => {
                    values.push(token.text);
                    let after = self.next();
                    match after.kind {
                        Kind::Comma => {}
                        Kind::Close => return Ok(values),
                        _ => return Err(format!("found '{}', expected: ',' or ')'", after.text)),
                    }
                }
                Kind::Comma => values.push(String::new()),
                Kind::Close => {
                    values.push(String::new());
                    return Ok(values);
                }
                _ => return Err(format!("found '{}', expected: ',', ')' or identifier", token.text)),
            }
        }
    }
}

/// Reads a selector's terms, in their order.
pub(super) fn requirements(text: &str) -> Result<Vec<Requirement>, String> {
    let mut parser = Parser { tokens: tokens(text), position: 0 };
    let mut found = Vec::new();
    loop {
        let token = parser.peek();
        match token.kind {
            Kind::End => return Ok(found),
            Kind::Identifier | Kind::Not => {}
            _ => {
                return Err(format!("found '{}', expected: !, identifier, or 'end of string'", token.text));
            }
        }
        found.push(parser.requirement().map_err(|why| format!("unable to parse requirement: {why}"))?);
        let token = parser.next();
        match token.kind {
            Kind::End => return Ok(found),
            Kind::Comma => {
                let after = parser.peek();
                if !matches!(after.kind, Kind::Identifier | Kind::Not) {
                    return Err(format!("found '{}', expected: identifier after ','", after.text));
                }
            }
            _ => return Err(format!("found '{}', expected: ',' or 'end of string'", token.text)),
        }
    }
}

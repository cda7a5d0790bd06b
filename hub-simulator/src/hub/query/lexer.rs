//! Words, numbers and signs of a query.

use std::borrow::Cow;

use serde_json::Value;

use super::SyntaxError;

/// A token and where it begins, counted from 1.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Token {
    pub(super) position: usize,
    pub(super) kind: Kind,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Kind {
    /// A keyword or a name; a name in `[[` and `]]` is never a keyword.
    Word {
        text: String,
        quoted: bool,
    },
    Text(String),
    Number(Value),
    /// `=`, `!=`, `<>`, `<`, `<=`, `>`, `>=`, `(`, `)`, `[`, `]`, `,`, `.`, `*`, `-`.
    Sign(&'static str),
    End,
}

/// Longest first.
const SIGNS: [&str; 15] = [
    "!=", "<>", "<=", ">=", "=", "<", ">", "(", ")", "[", "]", ",", ".", "*", "-",
];

/// Splits a query; the last token is [`Kind::End`].
pub(super) fn tokens(text: &str) -> Result<Vec<Token>, SyntaxError> {
    let mut lexer = Lexer {
        rest: text,
        position: 1,
    };
    let mut tokens = Vec::new();
    loop {
        let blank = lexer.rest.len() - lexer.rest.trim_start().len();
        lexer.take(blank);
        let position = lexer.position;
        let kind = lexer.next()?;
        let at_end = kind == Kind::End;
        tokens.push(Token { position, kind });
        if at_end {
            return Ok(tokens);
        }
    }
}

struct Lexer<'a> {
    rest: &'a str,
    /// Characters before `rest`, and one.
    position: usize,
}

impl<'a> Lexer<'a> {
    /// Takes so many bytes off.
    fn take(&mut self, bytes: usize) -> &'a str {
        let (taken, rest) = self.rest.split_at(bytes);
        self.position += taken.chars().count();
        self.rest = rest;
        taken
    }

    fn take_while(&mut self, belongs: impl Fn(char) -> bool) -> &'a str {
        let end = self.rest.find(|c| !belongs(c)).unwrap_or(self.rest.len());
        self.take(end)
    }

    fn error(&self, what: impl Into<Cow<'static, str>>) -> SyntaxError {
        SyntaxError {
            what: what.into(),
            position: self.position,
        }
    }

    fn next(&mut self) -> Result<Kind, SyntaxError> {
        let Some(first) = self.rest.chars().next() else {
            return Ok(Kind::End);
        };
        match first {
            '\'' | '"' => self.text(first),
            '[' if self.rest.starts_with("[[") => self.quoted_name(),
            c if c.is_ascii_digit() => self.number(),
            c if is_name(c) => {
                let word = self.take_while(|c| is_name(c) || c == '-' || c == ':');
                Ok(Kind::Word {
                    text: word.to_owned(),
                    quoted: false,
                })
            }
            // One semicolon may end a query.
            ';' if self.rest.trim_end() == ";" => {
                self.take(self.rest.len());
                Ok(Kind::End)
            }
            _ => {
                let sign = SIGNS.iter().find(|sign| self.rest.starts_with(**sign));
                let sign = sign.ok_or_else(|| self.error(format!("Unexpected '{first}'")))?;
                self.take(sign.len());
                Ok(Kind::Sign(sign))
            }
        }
    }

    /// A text in quotes; a quote within is doubled or follows a backslash.
    fn text(&mut self, quote: char) -> Result<Kind, SyntaxError> {
        let unfinished = self.error("A text that does not end");
        self.take(quote.len_utf8());
        let mut text = String::new();
        loop {
            text.push_str(self.take_while(|c| c != quote && c != '\\'));
            let mut next = self.rest.chars();
            match (next.next(), next.next()) {
                (Some('\\'), Some(escaped)) if escaped == quote || escaped == '\\' => {
                    text.push(escaped);
                    self.take(2);
                }
                (Some('\\'), _) => {
                    text.push('\\');
                    self.take(1);
                }
                (Some(_), Some(doubled)) if doubled == quote => {
                    text.push(quote);
                    self.take(2);
                }
                (Some(_), _) => {
                    self.take(1);
                    return Ok(Kind::Text(text));
                }
                (None, _) => return Err(unfinished),
            }
        }
    }

    /// `[[any name]]`.
    fn quoted_name(&mut self) -> Result<Kind, SyntaxError> {
        let end = self.rest.find("]]");
        let end = end.ok_or_else(|| self.error("A name that does not end"))?;
        let name = self.take(end + 2);
        Ok(Kind::Word {
            text: name[2..end].to_owned(),
            quoted: true,
        })
    }

    fn number(&mut self) -> Result<Kind, SyntaxError> {
        let wrong = self.error("Something that is no number");
        let text = self.take_while(|c| c.is_ascii_alphanumeric() || c == '.');
        // An exponent may bear a sign.
        let exponent = if text.ends_with(['e', 'E']) && self.rest.starts_with(['+', '-']) {
            let sign = self.take(1);
            [sign, self.take_while(|c| c.is_ascii_digit())].concat()
        } else {
            String::new()
        };
        let number = serde_json::from_str(&[text, &exponent].concat());
        number.map(Kind::Number).map_err(|_| wrong)
    }
}

fn is_name(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '$')
}

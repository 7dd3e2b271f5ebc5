//! TXT values as Route 53 writes them: strings in quotes, side by side, with escapes.

/// Longest string in a TXT record.
const PIECE: usize = 255;

/// A text as a TXT value.
pub(super) fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    for (at, piece) in text.as_bytes().chunks(PIECE).enumerate() {
        if at > 0 {
            out.push(' ');
        }
        out.push('"');
        for byte in piece {
            match byte {
                b'"' | b'\\' => {
                    out.push('\\');
                    out.push(char::from(*byte));
                }
                b' '..=b'~' => out.push(char::from(*byte)),
                _ => out.push_str(&format!("\\{byte:03o}")),
            }
        }
        out.push('"');
    }
    out
}

/// What a TXT value says: its strings joined. What is not in quotes is taken as it is.
pub(super) fn unquoted(value: &str) -> String {
    let mut out: Vec<u8> = Vec::with_capacity(value.len());
    let mut inside = false;
    let mut rest = value.bytes().peekable();
    while let Some(byte) = rest.next() {
        match byte {
            b'"' => inside = !inside,
            b' ' | b'\t' if !inside && value.starts_with('"') => {}
            b'\\' => out.push(escaped(&mut rest)),
            _ => out.push(byte),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The byte after a backslash, which may be three octal digits.
fn escaped(rest: &mut std::iter::Peekable<std::str::Bytes<'_>>) -> u8 {
    let mut number = 0_u8;
    for at in 0..3 {
        match rest.peek() {
            Some(digit @ b'0'..=b'7') => {
                number = number.wrapping_mul(8).wrapping_add(digit - b'0');
                rest.next();
            }
            Some(other) if at == 0 => {
                let other = *other;
                rest.next();
                return other;
            }
            Some(_) | None => break,
        }
    }
    number
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_quoted_and_read_back() {
        for (text, value) in [
            ("v=mesh1;epoch=5", "\"v=mesh1;epoch=5\""),
            ("say \"no\\\"", "\"say \\\"no\\\\\\\"\""),
            ("é", "\"\\303\\251\""),
        ] {
            assert_eq!(quoted(text), value);
            assert_eq!(unquoted(value), text);
        }
        let long = "x".repeat(300);
        assert_eq!(quoted(&long).matches('"').count(), 4);
        assert_eq!(unquoted(&quoted(&long)), long);
        assert_eq!(unquoted("\"a b\"  \"c\""), "a bc");
        assert_eq!(unquoted("bare words"), "bare words");
    }

    #[test]
    fn fuzz_text() {
        mesh_fuzz::fuzz!("text", |bytes| {
            let text = String::from_utf8_lossy(bytes);
            let read = mesh_fuzz::bounded(bytes.len(), || unquoted(&text));
            assert!(read.chars().count() <= text.len());
            let written = quoted(&text);
            assert!(written.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
            assert_eq!(unquoted(&written), text);
        });
    }
}

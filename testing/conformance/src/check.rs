//! What a case answers, and the two macros by which it compares.

/// Why a case failed: one or more lines, for people.
#[derive(Debug)]
pub(crate) struct Failure(pub(crate) String);

/// What a case answers.
pub(crate) type Outcome<T = ()> = Result<T, Failure>;

/// Ends the case unless `actual` equals `expected`.
macro_rules! same {
    ($actual:expr, $expected:expr $(,)?) => {{
        let (actual, expected) = (&$actual, &$expected);
        if *actual != *expected {
            return Err($crate::check::Failure(format!(
                "{}:{}: {}\n    expected {:?}\n    actual   {:?}",
                file!(),
                line!(),
                stringify!($actual),
                expected,
                actual
            )));
        }
    }};
}

/// The value of an answer that has to be `Ok`; else ends the case.
macro_rules! ok {
    ($answer:expr $(,)?) => {
        match $answer {
            Ok(value) => value,
            Err(error) => {
                return Err($crate::check::Failure(format!(
                    "{}:{}: {}\n    expected Ok\n    actual   {:?}",
                    file!(),
                    line!(),
                    stringify!($answer),
                    error
                )));
            }
        }
    };
}

pub(crate) use {ok, same};

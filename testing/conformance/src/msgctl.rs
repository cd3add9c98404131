use crate::case::cases;
cases! { "msgctl": }

use crate::case::cases;
cases! { "semctl": }

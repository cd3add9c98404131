use crate::case::cases;
cases! { "semget": }

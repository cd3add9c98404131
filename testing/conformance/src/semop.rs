use crate::case::cases;
cases! { "semop": }

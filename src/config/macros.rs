//! The macros that make struct, documentation, defaults, bounds, reading and writing of a section from
//! one text, so that none of them can differ from the others.

/// Declares a section: struct, defaults, documentation, bounds, reading and writing in one text.
#[macro_export]
macro_rules! section {
    ($(
        $(#[doc = $section_doc:literal])+
        pub struct $name:ident {
            $(
                $(#[doc = $doc:literal])+
                $field:ident : $ty:ty $([$range:expr])? = $default:expr;
            )+
        }
    )+) => {$(
        $(#[doc = $section_doc])+
        #[derive(Clone, PartialEq, Debug)]
        pub struct $name {
            $(
                $(#[doc = $doc])+
                pub $field: $ty,
            )+
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)+ }
            }
        }

        impl $crate::config::setting::Section for $name {
            const KEYS: &'static [&'static str] = &[$(
                $crate::config::setting::key(stringify!($field))
            ),+];

            fn read_keys(
                tree: &$crate::config::fill::Tree,
                path: &str,
                problems: &mut $crate::config::problem::Problems,
            ) -> Self {
                use $crate::config::setting;
                let mut section = Self::default();
                setting::unknown_keys(tree, Self::KEYS, path, problems);
                $(
                    let _line = setting::read_key(
                        tree, setting::key(stringify!($field)), path, &mut section.$field, problems,
                    );
                    $(
                        let below = $crate::config::fill::join(
                            path, setting::key(stringify!($field)),
                        );
                        setting::in_range(&section.$field, &$range, _line, &below, problems);
                    )?
                )+
                section
            }

            fn write_keys(&self, reference: &mut $crate::config::reference::Reference) {
                $(
                    let mut _range: Option<String> = None;
                    $(
                        let bounds: std::ops::RangeInclusive<u64> = $range;
                        _range = Some(format!("{} to {}", bounds.start(), bounds.end()));
                    )?
                    reference.docs(&[$($doc),+], _range);
                    $crate::config::setting::Setting::write(
                        &self.$field,
                        $crate::config::setting::key(stringify!($field)),
                        reference,
                    );
                )+
            }
        }

        impl $crate::config::setting::Setting for $name {
            fn read(
                tree: &$crate::config::fill::Tree,
                path: &str,
                problems: &mut $crate::config::problem::Problems,
            ) -> Option<Self> {
                $crate::config::setting::read_section(tree, path, problems)
            }

            fn write(&self, key: &str, reference: &mut $crate::config::reference::Reference) {
                reference.line(&format!("{key}:"));
                reference.nested(|reference| {
                    $crate::config::setting::Section::write_keys(self, reference);
                });
            }
        }
    )+};
}

/// Declares a setting with a fixed set of words.
#[macro_export]
macro_rules! choice {
    ($(
        $(#[$meta:meta])*
        pub enum $name:ident {
            $( $(#[$variant_meta:meta])* $variant:ident = $word:literal, )+
        }
    )+) => {$(
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
        pub enum $name {
            $( $(#[$variant_meta])* $variant, )+
        }

        impl $name {
            /// The word in the configuration.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }

            /// What the word means.
            pub fn from_word(word: &str) -> Option<Self> {
                match word { $($word => Some(Self::$variant),)+ _ => None }
            }
        }

        impl $crate::config::setting::Setting for $name {
            fn read(
                tree: &$crate::config::fill::Tree,
                path: &str,
                problems: &mut $crate::config::problem::Problems,
            ) -> Option<Self> {
                use $crate::config::setting;
                let word = setting::text(tree, path, problems)?;
                match word.as_str() {
                    $($word => Some(Self::$variant),)+
                    other => {
                        let words = [$($word),+];
                        problems.add(
                            tree.line,
                            path,
                            format!(
                                "expected one of {}{}",
                                words.join(", "),
                                setting::suggestion(other, &words)
                                    .split("; known here")
                                    .next()
                                    .unwrap_or_default(),
                            ),
                        );
                        None
                    }
                }
            }

            fn write(&self, key: &str, reference: &mut $crate::config::reference::Reference) {
                reference.line(&format!("{key}: {}", self.as_str()));
            }
        }
    )+};
}

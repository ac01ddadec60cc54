//! R23: every validated type of text, in one table, and each way around its rule that is closed.

/// Calls a macro with every type.
macro_rules! for_every_type {
    ($with:ident) => {
        $with! {
            access::TokenLabel,
            event::AttributeText,
            event::CausationId,
            event::CausedBy,
            event::CorrelationId,
            event::EventId,
            event::EventSource,
            event::EventType,
            event::IdempotencyKey,
            event::Subject,
            position::Incarnation,
            position::SourceName,
            position::StreamName,
            state::EntityKey,
            state::MachineName,
            state::Status,
            tenant::TenantId,
        }
    };
}

/// For each type two programs that differ in one expression: the first compiles and runs, the second does
/// not compile.
#[cfg(doctest)]
mod r23_building_one_from_a_raw_string_does_not_compile {
    macro_rules! programs {
        ($($module:ident::$name:ident,)*) => {
            $(
                #[doc = concat!(
                    "```\nlet made = tidegate_engine::", stringify!($module), "::", stringify!($name),
                    "::new(\"acme\").unwrap();\nassert_eq!(made.as_str(), \"acme\");\n```\n",
                    "```compile_fail,E0423\nlet made = tidegate_engine::", stringify!($module), "::",
                    stringify!($name), "(\"acme\".into());\nassert_eq!(made.as_str(), \"acme\");\n```\n",
                )]
                pub struct $name;
            )*
        };
    }
    for_every_type!(programs);
}

#[cfg(test)]
mod each_type {
    use std::collections::BTreeSet;
    use std::fmt::{Debug, Display};
    use std::marker::PhantomData;
    use std::path::Path;
    use std::str::FromStr;
    use std::sync::Arc;

    use bytestring::ByteString;
    use serde::Serialize;
    use serde::de::DeserializeOwned;
    use serde_json::{Value, json};

    use crate::error::InvalidValue;

    /// Whether `T` can be converted from `F` without a question.
    struct Converts<F, T>(PhantomData<(F, T)>);

    impl<F, T: From<F>> Converts<F, T> {
        const ANSWER: bool = true;
    }

    /// The answer where the one above does not apply.
    trait Otherwise {
        const ANSWER: bool = false;
    }

    impl<F, T> Otherwise for Converts<F, T> {}

    /// Whether `T` has a value that nobody chose.
    struct Defaults<T>(PhantomData<T>);

    impl<T: Default> Defaults<T> {
        const ANSWER: bool = true;
    }

    impl<T> Otherwise for Defaults<T> {}

    #[test]
    fn r23_no_type_of_text_converts_from_raw_text() {
        // The question is answered with yes where it should be.
        const { assert!(Converts::<&str, String>::ANSWER && Defaults::<String>::ANSWER) };
        macro_rules! none_converts {
            ($($module:ident::$name:ident,)*) => {
                $(
                    type $name = crate::$module::$name;
                    let ways = [
                        Converts::<&'static str, $name>::ANSWER,
                        Converts::<String, $name>::ANSWER,
                        Converts::<Box<str>, $name>::ANSWER,
                        Converts::<Arc<str>, $name>::ANSWER,
                        Converts::<ByteString, $name>::ANSWER,
                        Defaults::<$name>::ANSWER,
                    ];
                    assert_eq!(ways, [false; 6], "{}", stringify!($name));
                )*
            };
        }
        for_every_type!(none_converts);
    }

    fn holds_its_rule<T>(new: fn(&str) -> Result<T, InvalidValue>)
    where
        T: FromStr<Err = InvalidValue> + Serialize + DeserializeOwned,
        T: Debug + Display + PartialEq,
    {
        let name = std::any::type_name::<T>();
        let read = |value: Value| serde_json::from_value::<T>(value);
        let made = new("acme").unwrap();
        assert_eq!(serde_json::to_value(&made).unwrap(), json!("acme"));
        assert_eq!(read(json!("acme")).unwrap(), made);
        let long = "a".repeat(100_000);
        for invalid in ["", "a\0", "a\nb", "\u{7f}", &long] {
            let refusal = new(invalid).unwrap_err();
            assert_eq!(T::from_str(invalid).unwrap_err(), refusal, "{name}");
            let read = read(json!(invalid)).unwrap_err().to_string();
            assert_eq!(read, refusal.to_string(), "{name}");
        }
        for other in [json!(null), json!(7), json!(["acme"]), json!({"0": "acme"})] {
            assert!(read(other.clone()).is_err(), "{name}: {other}");
        }
    }

    #[test]
    fn r23_what_breaks_the_rule_of_its_type_is_refused_however_it_comes() {
        macro_rules! each_holds {
            ($($module:ident::$name:ident,)*) => { $( holds_its_rule(crate::$module::$name::new); )* };
        }
        for_every_type!(each_holds);
    }

    /// The engine's sources, by path.
    fn sources(folder: &Path, found: &mut Vec<(String, String)>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                sources(&path, found);
            } else {
                let text = std::fs::read_to_string(&path).unwrap();
                found.push((path.display().to_string(), text));
            }
        }
    }

    #[test]
    fn r23_every_type_of_text_is_declared_by_one_macro_and_stands_in_the_table() {
        let mut files = Vec::new();
        sources(
            &Path::new(env!("CARGO_MANIFEST_DIR")).join("src"),
            &mut files,
        );
        let mut declared = BTreeSet::new();
        for (path, text) in &files {
            // `crate::text_type!(`, its documentation, and the name before the first comma.
            for declaration in text.split("text_type!(\n").skip(1) {
                let mut lines = declaration.lines().map(str::trim);
                let line = lines.find(|line| !line.starts_with("///"));
                declared.insert(line.unwrap().split(',').next().unwrap().to_owned());
            }
            let own = text.lines().map(str::trim).filter(|line| {
                let fields = line
                    .strip_prefix("pub struct ")
                    .and_then(|rest| rest.split_once('('))
                    .map(|(_, fields)| fields.trim_start_matches("pub "));
                let raw = ["String", "Arc<str>", "Box<str>", "ByteString", "Cow<", "&"];
                fields.is_some_and(|fields| raw.iter().any(|raw| fields.starts_with(raw)))
            });
            let own: Vec<&str> = own.collect();
            assert_eq!(own, Vec::<&str>::new(), "{path}");
        }
        let mut table = BTreeSet::new();
        macro_rules! names {
            ($($module:ident::$name:ident,)*) => { $( table.insert(stringify!($name).to_owned()); )* };
        }
        for_every_type!(names);
        assert_eq!(declared, table);
        // The one that declares them keeps its field to itself.
        let (_, text) = files
            .iter()
            .find(|(path, _)| path.ends_with("/src/text.rs"))
            .unwrap();
        assert!(text.contains("pub struct $name($text);"));
    }
}

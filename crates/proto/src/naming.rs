//! Names in `proto/`, as buf's lint (category STANDARD) wants them: whoever generates a client in another language
//! gets the names that are usual there. No `buf` has to be installed for it.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto, ServiceDescriptorProto,
};

#[test]
fn names_are_what_generators_expect() {
    let files = files();
    assert!(files.len() >= 7, "this is not all of proto/: {files:?}");
    let root = root();
    let set = protox::compile(&files, [&root]).unwrap();
    let mut complaints = Complaints::default();
    for file in set.file.iter().filter(|file| file.package().starts_with("balsa.")) {
        complaints.look_at_file(file);
    }
    complaints.look_at_uses();
    let wrong = complaints.all;
    assert!(wrong.is_empty(), "{} names:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn wrong_names_are_noticed() {
    let text = "syntax = \"proto3\"; package balsa.Zoo;
        service Keeper { rpc feed(Food) returns (Food); rpc Wash(WashRequest) returns (WashResponse); }
        message Food { string mainDish = 1; oneof Drink { string tea = 2; } message inner {} }
        message WashRequest {} message WashResponse {}
        enum Size { SMALL = 0; SIZE_LARGE = 1; }";
    let folder = std::env::temp_dir().join(format!("balsa-naming-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("aZoo.proto"), text).unwrap();
    let set = protox::compile(["aZoo.proto"], [&folder]);
    std::fs::remove_dir_all(&folder).unwrap();
    let mut complaints = Complaints::default();
    complaints.look_at_file(&set.unwrap().file[0]);
    complaints.look_at_uses();
    for wanted in [
        "aZoo.proto: a file is called like_this.proto",
        "aZoo.proto: lies in another folder than its package balsa.Zoo says",
        "balsa.Zoo: a package is lower case",
        "balsa.Zoo: a package ends in its version, .v1",
        "balsa.Zoo.Keeper: a service is called LikeThisService",
        "balsa.Zoo.Keeper.feed: an rpc is called LikeThis",
        "balsa.Zoo.Keeper.feed: its request is a feedRequest, not Food",
        "balsa.Zoo.Keeper.feed: its response is a feedResponse, not Food",
        "balsa.Zoo.Food: 2 rpcs use it as a request or response, which cannot change for one alone",
        "balsa.Zoo.Food.inner: a message is called LikeThis",
        "balsa.Zoo.Food.mainDish: a field is called like_this",
        "balsa.Zoo.Food.Drink: a oneof is called like_this",
        "balsa.Zoo.Size.SMALL: its name starts with SIZE_",
        "balsa.Zoo.Size.SMALL: zero is called SIZE_UNSPECIFIED",
    ] {
        assert!(complaints.all.iter().any(|told| told == wanted), "no {wanted:?} in {:#?}", complaints.all);
    }
    assert_eq!(complaints.all.len(), 14, "{:#?}", complaints.all);
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto")
}

/// All of `proto/`, also what other crates compile.
fn files() -> Vec<PathBuf> {
    let root = root();
    let (mut folders, mut files) = (vec![root.clone()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            match entry.path() {
                path if path.is_dir() => folders.push(path),
                path if path.extension().is_some_and(|end| end == "proto") => {
                    files.push(path.strip_prefix(&root).unwrap().to_owned());
                }
                _ => {}
            }
        }
    }
    files
}

#[derive(Default)]
struct Complaints {
    all: Vec<String>,
    /// How often a message is the request or the response of an rpc.
    uses: BTreeMap<String, usize>,
}

impl Complaints {
    fn require(&mut self, so: bool, who: &str, rule: impl std::fmt::Display) {
        if !so {
            self.all.push(format!("{who}: {rule}"));
        }
    }

    fn look_at_file(&mut self, file: &FileDescriptorProto) {
        let (path, package) = (Path::new(file.name()), file.package());
        let stem = path.file_stem().unwrap().to_str().unwrap();
        self.require(is_lower_snake(stem), file.name(), "a file is called like_this.proto");
        let place = path.parent().unwrap().to_str().unwrap().replace('/', ".");
        let rule = format!("lies in another folder than its package {package} says");
        self.require(place == package, file.name(), rule);
        self.require(package.split('.').all(is_lower_snake), package, "a package is lower case");
        self.require(is_versioned(package), package, "a package ends in its version, .v1");
        for service in &file.service {
            self.look_at_service(package, service);
        }
        for message in &file.message_type {
            self.look_at_message(package, message);
        }
        for one in &file.enum_type {
            self.look_at_enum(package, one);
        }
    }

    fn look_at_service(&mut self, package: &str, service: &ServiceDescriptorProto) {
        let who = format!("{package}.{}", service.name());
        let named = is_pascal(service.name()) && service.name().ends_with("Service");
        self.require(named, &who, "a service is called LikeThisService");
        for rpc in &service.method {
            let name = rpc.name();
            let who = format!("{who}.{name}");
            self.require(is_pascal(name), &who, "an rpc is called LikeThis");
            for (what, of) in [("request", rpc.input_type()), ("response", rpc.output_type())] {
                let end = if what == "request" { "Request" } else { "Response" };
                let short = of.rsplit('.').next().unwrap();
                // Also with the service's name before it, where two services have an rpc of that name.
                let so = short.strip_suffix(end).is_some_and(|start| {
                    start == name || start == format!("{}{name}", service.name().trim_end_matches("Service"))
                });
                self.require(so, &who, format!("its {what} is a {name}{end}, not {short}"));
                *self.uses.entry(of.trim_start_matches('.').to_owned()).or_default() += 1;
            }
        }
    }

    fn look_at_uses(&mut self) {
        for (message, count) in std::mem::take(&mut self.uses) {
            let rule =
                format!("{count} rpcs use it as a request or response, which cannot change for one alone");
            self.require(count == 1, &message, rule);
        }
    }

    fn look_at_message(&mut self, place: &str, message: &DescriptorProto) {
        let who = format!("{place}.{}", message.name());
        // What maps are made of is named by the compiler.
        if message.options.as_ref().is_some_and(|options| options.map_entry()) {
            return;
        }
        self.require(is_pascal(message.name()), &who, "a message is called LikeThis");
        let named = |field: &FieldDescriptorProto| is_lower_snake(field.name());
        for field in &message.field {
            self.require(named(field), &format!("{who}.{}", field.name()), "a field is called like_this");
        }
        for (n, one) in message.oneof_decl.iter().enumerate() {
            // `optional` makes oneofs of its own.
            let own = |field: &FieldDescriptorProto| {
                usize::try_from(field.oneof_index()) == Ok(n) && field.proto3_optional()
            };
            let made = message.field.iter().any(|field| field.oneof_index.is_some() && own(field));
            let so = made || is_lower_snake(one.name());
            self.require(so, &format!("{who}.{}", one.name()), "a oneof is called like_this");
        }
        for inner in &message.nested_type {
            self.look_at_message(&who, inner);
        }
        for inner in &message.enum_type {
            self.look_at_enum(&who, inner);
        }
    }

    fn look_at_enum(&mut self, place: &str, one: &EnumDescriptorProto) {
        let who = format!("{place}.{}", one.name());
        self.require(is_pascal(one.name()), &who, "an enum is called LikeThis");
        let prefix = format!("{}_", upper_snake(one.name()));
        for value in &one.value {
            let (name, who) = (value.name(), format!("{who}.{}", value.name()));
            self.require(is_upper_snake(name), &who, "a value is called LIKE_THIS");
            self.require(name.starts_with(&prefix), &who, format!("its name starts with {prefix}"));
            let zero = format!("{prefix}UNSPECIFIED");
            let so = value.number() != 0 || name == zero;
            self.require(so, &who, format!("zero is called {zero}"));
        }
    }
}

/// Words without doubled, leading or trailing lines between them.
fn is_snake(name: &str, letter: impl Fn(char) -> bool) -> bool {
    let word = |word: &str| !word.is_empty() && word.chars().all(|c| letter(c) || c.is_ascii_digit());
    name.split('_').all(word) && name.starts_with(letter)
}

fn is_lower_snake(name: &str) -> bool {
    is_snake(name, |letter| letter.is_ascii_lowercase())
}

fn is_upper_snake(name: &str) -> bool {
    is_snake(name, |letter| letter.is_ascii_uppercase())
}

fn is_pascal(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_uppercase())
        && name.chars().all(|letter| letter.is_ascii_alphanumeric())
}

/// `PatchType` is `PATCH_TYPE`.
fn upper_snake(name: &str) -> String {
    let mut words = String::new();
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && !words.is_empty() {
            words.push('_');
        }
        words.push(letter.to_ascii_uppercase());
    }
    words
}

fn is_versioned(package: &str) -> bool {
    let last = package.rsplit('.').next().unwrap_or_default();
    let number = last.strip_prefix('v').unwrap_or_default();
    let is_number = |text: &str| text.parse::<u32>().is_ok_and(|number| number > 0);
    number.split("alpha").chain(number.split("beta")).any(is_number)
}

//! Flags before the environment, the environment before the file, the file before the defaults.

use std::process::{Command, Output};

use balsa_testkit::balsa;
use serde_json::Value;

/// `balsa …` with an environment of its own.
fn run(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    Command::new(balsa()).args(arguments).env_clear().envs(environment.iter().copied()).output().unwrap()
}

fn configuration(arguments: &[&str], environment: &[(&str, &str)]) -> Value {
    let output = run(&[arguments, &["--print-config"]].concat(), environment);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_yaml_ng::from_slice(&output.stdout).unwrap()
}

#[test]
fn flags_then_environment_then_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("balsa.yaml");
    std::fs::write(&file, "port: 7001\nservice-cidr: 10.1.0.0/16\ncluster-cidr: 10.2.0.0/16\n").unwrap();
    let file = file.to_str().unwrap();

    let defaults = configuration(&["server"], &[]);
    assert_eq!(
        (defaults["port"].as_u64(), defaults["service-cidr"].as_str()),
        (Some(6443), Some("10.96.0.0/16"))
    );
    let with_file = configuration(&["server", "--config", file], &[]);
    assert_eq!(with_file["port"], 7001);
    assert_eq!(with_file["service-node-port-range"], "30000-32767", "a default");
    let environment = [("BALSA_CONFIG", file), ("BALSA_PORT", "7002"), ("BALSA_SERVICE_CIDR", "10.3.0.0/16")];
    let all = configuration(&["server", "--port", "7003"], &environment);
    assert_eq!(
        (&all["port"], &all["service-cidr"], &all["cluster-cidr"]),
        (&7003.into(), &"10.3.0.0/16".into(), &"10.2.0.0/16".into())
    );
    // What is printed is a configuration that says the same.
    let printed = folder.path().join("printed.yaml");
    std::fs::write(&printed, serde_yaml_ng::to_string(&all).unwrap()).unwrap();
    assert_eq!(configuration(&["server", "--config", printed.to_str().unwrap()], &[]), all);
    // The same file may serve an agent.
    let agent = configuration(
        &["agent", "--server", "h:1", "--name", "n", "--config", file],
        &[("BALSA_LABELS", "a=b")],
    );
    assert_eq!((&agent["cluster-cidr"], &agent["labels"]), (&"10.2.0.0/16".into(), &"a=b".into()));
    std::fs::write(&printed, serde_yaml_ng::to_string(&agent).unwrap()).unwrap();
    assert_eq!(configuration(&["agent", "--config", printed.to_str().unwrap()], &[]), agent);
}

/// Each option of a server by itself, in all four layers, and those that only `up` has.
#[test]
fn every_option_has_all_layers() {
    let of_servers = [
        ("port", ["6443", "7001", "7002", "7003"]),
        ("service-cidr", ["10.96.0.0/16", "10.1.0.0/16", "10.2.0.0/16", "10.3.0.0/16"]),
        ("cluster-cidr", ["10.244.0.0/16", "10.4.0.0/16", "10.5.0.0/16", "10.6.0.0/16"]),
        ("service-node-port-range", ["30000-32767", "31000-31001", "31000-31002", "31000-31003"]),
        ("storage-quota", ["2Gi", "3Gi", "4Gi", "5Gi"]),
        ("history-changes", ["200000", "1001", "1002", "1003"]),
        ("max-watches", ["20000", "101", "102", "103"]),
        ("bind", ["0.0.0.0", "127.0.0.1", "127.0.0.2", "127.0.0.3"]),
    ];
    let of_up = [
        ("nodes", ["1", "2", "3", "4"]),
        ("servers", ["1", "3", "5", "7"]),
        ("docker-host", ["", "unix:///1", "unix:///2", "unix:///3"]),
    ];
    let both = ["server", "up"].into_iter().flat_map(|command| of_servers.map(|option| (command, option)));
    for (command, (option, [default, in_file, in_environment, on_line])) in
        both.chain(of_up.map(|option| ("up", option)))
    {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("balsa.yaml");
        std::fs::write(&file, format!("{option}: {in_file}\n")).unwrap();
        let config = format!("--config={}", file.display());
        let variable = format!("BALSA_{}", option.to_uppercase().replace('-', "_"));
        let (environment, flag) = ([(variable.as_str(), in_environment)], format!("--{option}={on_line}"));
        let chosen = |arguments: &[&str], environment: &[(&str, &str)]| match &configuration(
            &[&[command], arguments].concat(),
            environment,
        )[option]
        {
            Value::String(text) => text.clone(),
            Value::Null => String::new(),
            other => other.to_string(),
        };
        assert_eq!(chosen(&[], &[]), default, "{command} {option}");
        assert_eq!(chosen(&[&config], &[]), in_file, "{command} {option}: the file");
        assert_eq!(chosen(&[&config], &environment), in_environment, "{command} {option}: {variable}");
        assert_eq!(chosen(&[&config, &flag], &environment), on_line, "{command} {option}: {flag}");
    }
}

/// What is printed of `up` is a file that says the same again.
#[test]
fn a_cluster_is_printed_as_it_is_configured() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("balsa.yaml");
    let printed =
        configuration(&["up", "--nodes=0", "--port=7003"], &[("BALSA_SERVICE_CIDR", "10.3.0.0/16")]);
    assert_eq!((&printed["nodes"], &printed["service-cidr"]), (&0.into(), &"10.3.0.0/16".into()));
    std::fs::write(&file, serde_yaml_ng::to_string(&printed).unwrap()).unwrap();
    let file = file.to_str().unwrap();
    assert_eq!(configuration(&["up", "--config", file], &[]), printed);
    // A server by itself may share it, and passes over what is not its own.
    assert_eq!(configuration(&["server", "--config", file], &[])["port"], 7003);
    let secret = run(&["up", "--print-config"], &[("BALSA_TOKEN", "a-secret-token")]);
    assert!(secret.status.success() && !String::from_utf8_lossy(&secret.stdout).contains("a-secret"));
}

#[test]
fn what_is_wrong_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("balsa.yaml");
    let file = file.to_str().unwrap();
    let told = |text: &str, arguments: &[&str], environment: &[(&str, &str)]| {
        std::fs::write(file, text).unwrap();
        let output = run(&[arguments, &["--print-config", "--config", file]].concat(), environment);
        assert!(!output.status.success() && output.stdout.is_empty(), "{text:?} {arguments:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    for (text, wanted) in [
        ("prot: 1", "there is no option \"prot\""),
        ("port: many", "port"),
        ("service-cidr: 10.0.0.0/99", "10.0.0.0/99"),
        ("- port", "like `port: 6443`"),
    ] {
        let said = told(text, &["server"], &[]);
        assert!(said.contains(wanted) && said.contains("balsa.yaml"), "{text}: {said}");
    }
    let said = told("", &["server"], &[("BALSA_PORT", "99999")]);
    assert!(said.contains("99999") && said.contains("--port"), "{said}");
    let said = told("", &["agent", "--name", "n"], &[]);
    assert!(said.contains("--server host:port"), "{said}");
    let said = told("", &["agent", "--server", "h:1", "--name", "Not_A_Name"], &[]);
    assert!(said.contains("--name Not_A_Name"), "{said}");
    let nobody = run(&["get", "pods"], &[("BALSA_DATA_DIR", folder.path().to_str().unwrap())]);
    let said = String::from_utf8_lossy(&nobody.stderr);
    assert!(nobody.status.code() == Some(1) && said.contains("start one with `balsa up`"), "{said}");
}

//! Execs.

use base64::Engine;
use dockerd_core::execs::{ExecConfig, ExecInspect};
use hyper::StatusCode;
use serde_json::{Value, json};

use super::containers::size;
use crate::context::Context;
use crate::error::ApiError;
use crate::extract::Target;
use crate::reply::{self, Reply};
use crate::stream::hijack::{self, Client, Wish};

type Result = std::result::Result<Reply, ApiError>;

pub(crate) async fn create(mut context: Context) -> Result {
    let body = context.json_into(Target { name: "container.ExecOptions", members_of: "ExecOptions" }).await?;
    let config = ExecConfig {
        cmd: body.texts("Cmd")?,
        user: body.text("User")?,
        privileged: body.flag("Privileged")?,
        tty: body.flag("Tty")?,
        attach_stdin: body.flag("AttachStdin")?,
        attach_stdout: body.flag("AttachStdout")?,
        attach_stderr: body.flag("AttachStderr")?,
        detach_keys: body.text("DetachKeys")?,
        env: body.texts("Env")?,
        working_dir: body.text("WorkingDir")?,
        console_size: Some(body.pair("ConsoleSize")?).filter(|size| *size != (0, 0)),
    };
    if config.cmd.is_empty() {
        return Err(ApiError::bad_request("No exec command specified"));
    }
    let id = context.engine.execs.create(context.name(), config).await?;
    Ok(reply::json(StatusCode::CREATED, &json!({"Id": id.as_str()})))
}

pub(crate) async fn start(mut context: Context) -> Result {
    let target = Target { name: "container.ExecStartOptions", members_of: "ExecStartOptions" };
    let body = context.json_into(target).await?;
    let (detach, tty) = (body.flag("Detach")?, body.flag("Tty")?);
    let size = Some(body.pair("ConsoleSize")?).filter(|size| tty && *size != (0, 0));
    if detach {
        context.engine.execs.start(context.name(), true, size).await?;
        return Ok(reply::empty(StatusCode::OK));
    }
    context.engine.execs.check(context.name())?;
    let wish = Wish::of(&mut context)?;
    let head = wish.head(tty, &context.head);
    let (engine, id) = (context.engine.clone(), context.name().to_owned());
    // The head goes out first; what goes wrong then is told in the stream.
    let run = move |taken| async move {
        let Ok(client) = Client::greet(taken, head, !tty).await else { return };
        match engine.execs.start(&id, false, size).await {
            Ok(Some(session)) => client.serve(session, hijack::EXEC_DETACHED).await,
            Ok(None) => {}
            Err(error) => client.fail(&ApiError::from(error)).await,
        }
    };
    Ok(wish.into_hijack().take(run).await)
}

pub(crate) async fn resize(context: Context) -> Result {
    let (height, width) = size(&context)?;
    context.engine.execs.resize(context.name(), height, width).await?;
    Ok(reply::empty(StatusCode::OK))
}

pub(crate) async fn inspect(context: Context) -> Result {
    Ok(reply::ok(&describe(&context.engine.execs.inspect(context.name())?)))
}

fn describe(exec: &ExecInspect) -> Value {
    let config = &exec.config;
    let mut process = json!({
        "tty": config.tty,
        "entrypoint": config.cmd.first(),
        "arguments": config.cmd.get(1..).unwrap_or_default(),
        "privileged": config.privileged,
    });
    if !config.user.is_empty() {
        process["user"] = json!(config.user);
    }
    json!({
        "ID": exec.id.as_str(),
        "Running": exec.running,
        "ExitCode": exec.exit_code,
        "ProcessConfig": process,
        "OpenStdin": config.attach_stdin,
        "OpenStderr": config.attach_stderr,
        "OpenStdout": config.attach_stdout,
        "CanRemove": false,
        "ContainerID": exec.container.as_str(),
        "DetachKeys": base64::engine::general_purpose::STANDARD.encode(&exec.detach_keys),
        "Pid": exec.pid,
    })
}

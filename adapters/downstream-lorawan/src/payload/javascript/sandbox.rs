//! A script in an engine that reaches nothing.

use std::cell::Cell;
use std::rc::Rc;

use rquickjs::context::EvalOptions;
use rquickjs::{CatchResultExt as _, CaughtError, Context, Ctx, Persistent, Runtime};
use tokio::time::Instant;

use super::JavaScriptConfig;
use crate::payload::CodecError;

/// What the engine's own stack may take: much less than its thread has.
const STACK: usize = 256 * 1024;

/// Makes what scripts expect to be there.
const GLOBALS: &str = include_str!("globals.js");

/// Finds the script's functions, and speaks JSON with them.
const GLUE: &str = include_str!("glue.js");

/// Chooses what a script does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Function {
    Decode,
    Encode,
}

/// A script that was run, with the functions that it left.
pub(super) struct Sandbox {
    // The functions go before the engine that they live in.
    decode: Persistent<rquickjs::Function<'static>>,
    encode: Persistent<rquickjs::Function<'static>>,
    context: Context,
    clock: Rc<Clock>,
}

/// Tells the engine when to give up.
struct Clock {
    limit: std::time::Duration,
    deadline: Cell<Instant>,
}

impl Clock {
    fn start(&self) {
        self.deadline.set(Instant::now() + self.limit);
    }

    fn is_over(&self) -> bool {
        self.deadline.get() <= Instant::now()
    }

    /// Sorts what stopped the engine.
    fn failure(&self, error: &CaughtError<'_>) -> CodecError {
        if self.is_over() {
            return CodecError::TimedOut;
        }
        let text = match error {
            CaughtError::Exception(exception) => exception.message().unwrap_or_default(),
            other => other.to_string(),
        };
        CodecError::Failed(text)
    }
}

impl Sandbox {
    /// Runs a script.
    pub(super) fn new(script: &str, config: &JavaScriptConfig) -> Result<Self, CodecError> {
        let clock = Rc::new(Clock {
            limit: config.time_limit,
            deadline: Cell::new(Instant::now()),
        });
        clock.start();
        let broken = |error: rquickjs::Error| CodecError::Failed(error.to_string());
        let runtime = Runtime::new().map_err(broken)?;
        runtime.set_memory_limit(config.memory_limit);
        runtime.set_max_stack_size(STACK);
        let watch = clock.clone();
        runtime.set_interrupt_handler(Some(Box::new(move || watch.is_over())));
        let context = Context::full(&runtime).map_err(broken)?;
        let (decode, encode) = context.with(|ctx| {
            let ready = run(&ctx, GLOBALS).and_then(|()| run(&ctx, script));
            let functions = ready.and_then(|()| {
                let glue: rquickjs::Object<'_> = ctx.eval(GLUE)?;
                let save = |name| {
                    let function: rquickjs::Function<'_> = glue.get(name)?;
                    rquickjs::Result::Ok(Persistent::save(&ctx, function))
                };
                Ok((save("decode")?, save("encode")?))
            });
            functions.catch(&ctx).map_err(|error| clock.failure(&error))
        })?;
        Ok(Self {
            decode,
            encode,
            context,
            clock,
        })
    }

    /// Calls a function with JSON, for JSON. After a failure the sandbox is not to be used again.
    pub(super) fn call(&self, function: Function, argument: &str) -> Result<String, CodecError> {
        let (function, what) = match function {
            Function::Decode => (&self.decode, "decoder"),
            Function::Encode => (&self.encode, "encoder"),
        };
        self.clock.start();
        let result = self.context.with(|ctx| {
            let function = function.clone().restore(&ctx);
            let result = function.and_then(|function| function.call((argument,)));
            result
                .catch(&ctx)
                .map_err(|error| self.clock.failure(&error))
        });
        let result: Option<String> = result?;
        result.ok_or(CodecError::Unsupported(what))
    }
}

/// Runs a script as the field writes them: sloppy, with functions at the top level.
fn run(ctx: &Ctx<'_>, script: &str) -> rquickjs::Result<()> {
    let mut options = EvalOptions::default();
    options.strict = false;
    ctx.eval_with_options(script, options)
}

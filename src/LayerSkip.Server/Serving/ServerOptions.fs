namespace LayerSkip.Server

open System
open LayerSkip

/// How a server listens, and what it lets its clients do.
[<NoEquality; NoComparison>]
type ServerOptions = {
    /// An IP address of this machine, or "localhost".
    Host: string
    /// 0: any free one.
    Port: int
    /// What clients call the model; None: the name of its folder or file.
    ModelName: string option
    /// What every request must bring, but those for the page and for /health; None: nothing.
    ApiKey: string option
    /// Pages of these origins may call the server from a browser ("*": of any); without one only its own page may.
    CorsOrigins: string list
    /// How requests draft that say nothing of drafting.
    Drafting: StrategyChoice
    /// Texts that are written side by side, requests that wait, and the memory for their caches.
    Engine: EngineOptions
    MaxBodyBytes: int64
    /// The longest prompt, in tokens; None: what the context holds.
    MaxPromptTokens: int option
    /// The longest that a request may take.
    RequestTimeout: TimeSpan
    /// The longest that a request's head, and then its body, may take to arrive, and that a client may read nothing of the stream it asked for.
    ArrivalTimeout: TimeSpan
    /// How long what runs may go on once the server is to end.
    ShutdownTimeout: TimeSpan
    /// Takes what the one who runs the server should know, a line each: no request's text is in it.
    Remark: string -> unit
}

[<RequireQualifiedAccess>]
module ServerOptions =
    /// On this machine alone.
    let defaults: ServerOptions = {
        Host = "127.0.0.1"
        Port = 8000
        ModelName = None
        ApiKey = None
        CorsOrigins = []
        Drafting = StrategyChoice.none
        Engine = EngineOptions.defaults
        MaxBodyBytes = 8L * 1024L * 1024L
        MaxPromptTokens = None
        RequestTimeout = TimeSpan.FromMinutes 10.0
        ArrivalTimeout = TimeSpan.FromSeconds 30.0
        ShutdownTimeout = TimeSpan.FromSeconds 30.0
        Remark = ignore
    }

namespace LayerSkip.Server

open System
open System.IO
open System.Net
open System.Net.Sockets
open System.Threading
open System.Threading.Tasks
open Microsoft.AspNetCore.Builder
open Microsoft.AspNetCore.Connections
open Microsoft.AspNetCore.Hosting
open Microsoft.AspNetCore.Hosting.Server
open Microsoft.AspNetCore.Hosting.Server.Features
open Microsoft.AspNetCore.Http
open Microsoft.AspNetCore.Routing
open Microsoft.AspNetCore.Server.Kestrel.Core
open Microsoft.Extensions.DependencyInjection
open Microsoft.Extensions.Hosting
open LayerSkip

/// A server that listens.
[<Sealed>]
type RunningServer internal (app: WebApplication, service: Service) =
    let stopped = obj ()
    let mutable stopping: Task = null

    let stop () : Task =
        task {
            // What comes from now on is refused; what runs has its time, and is then cancelled.
            service.Gate.Close()
            let limit = service.Options.ShutdownTimeout
            use ending = new CancellationTokenSource(limit)
            use _cancelling = ending.Token.Register(fun () -> service.Gate.Cancel())
            use giveUp = new CancellationTokenSource(limit + TimeSpan.FromSeconds 5.0)
            do! app.StopAsync giveUp.Token
            service.Gate.Cancel()
            do! service.Engine.Stop()
            (service.Model :> IDisposable).Dispose()
            do! app.DisposeAsync()
        }

    /// Where it listens: "http://127.0.0.1:8000".
    member _.Address: string =
        app.Services.GetRequiredService<IServer>().Features.Get<IServerAddressesFeature>().Addresses
        |> Seq.head

    /// What clients call its model.
    member _.ModelName = service.Model.Name

    /// What its engine does and has done.
    member _.Counts: EngineCounts = service.Engine.Counts

    /// Requests that are being answered.
    member internal _.Inside = service.Gate.Inside

    /// Takes no more requests, lets those that run finish for at most `ShutdownTimeout`, and frees what the server holds; the checkpoint is the
    /// caller's.
    member _.StopAsync() : Task =
        lock stopped (fun () ->
            if isNull stopping then
                stopping <- stop ()

            stopping)

    interface IAsyncDisposable with
        member this.DisposeAsync() = ValueTask(this.StopAsync())

/// A model behind OpenAI's HTTP interface.
[<RequireQualifiedAccess>]
module Server =
    /// Signals are the command's affair.
    let private noLifetime = {
        new IHostLifetime with
            member _.WaitForStartAsync _ = Task.CompletedTask
            member _.StopAsync _ = Task.CompletedTask
    }

    let private mostConnections = 1024L

    let private address (options: ServerOptions) : Result<IPAddress, LayerSkipError list> =
        if options.Host = "localhost" then
            Ok IPAddress.Loopback
        else
            match IPAddress.TryParse options.Host with
            | true, address -> Ok address
            | _ -> Check.outOfRange "host" options.Host "an IP address of this machine, or localhost"

    /// "*", or as browsers send it: neither a path behind it, nor a port that the scheme has anyway, nor a capital letter.
    let private isOrigin (text: string) : bool =
        text = "*"
        || (match Uri.TryCreate(text, UriKind.Absolute) with
            | true, uri ->
                uri.Host <> ""
                && uri.UserInfo = ""
                && uri.HostNameType <> UriHostNameType.Basic
                && Seq.forall Char.IsAscii text
                && text = uri.GetLeftPart UriPartial.Authority
            | _ -> false)

    let private faults (options: ServerOptions) (config: LlamaConfig) : LayerSkipError list =
        let positive (name: string) (time: TimeSpan) =
            Check.inRange (time > TimeSpan.Zero) name $"{time.TotalSeconds} s" "more than 0 s"

        List.concat [
            address options |> Check.faults
            Check.inRange
                (options.Port >= 0 && options.Port < 65536)
                "port"
                (string options.Port)
                "0 to 65535"
            Check.inRange (options.ApiKey <> Some "") "api-key" "empty" "a text of one character or more"
            Check.inRange
                (options.ModelName |> Option.forall (String.IsNullOrWhiteSpace >> not))
                "served-model-name"
                "blank"
                "a name that clients can send"
            for origin in options.CorsOrigins do
                Check.inRange
                    (isOrigin origin)
                    "cors-origin"
                    (Printable.cut 60 origin)
                    "an origin as browsers send it, scheme://host or scheme://host:port, as https://example.org; or *"
            match options.MaxPromptTokens with
            | Some most ->
                // A token more has to have room.
                Check.inRange
                    (most >= 1 && most < config.Context)
                    "max-prompt-tokens"
                    (string most)
                    $"1 to {config.Context - 1}, which the context of {config.Context} leaves room for a new token after"
            | None -> ()
            Check.inRange (options.MaxBodyBytes > 0L) "max-body" (string options.MaxBodyBytes) "1 or more"
            positive "request-timeout" options.RequestTimeout
            positive "arrival-timeout" options.ArrivalTimeout
            EngineOptions.faults options.Engine
        ]

    let private nameOf (options: ServerOptions) (checkpoint: Checkpoint) : string =
        let name = Path.GetFileName(Path.TrimEndingDirectorySeparator(Path.GetFullPath checkpoint.Path))

        options.ModelName
        |> Option.defaultValue (
            if name.EndsWith(".gguf", StringComparison.OrdinalIgnoreCase) then
                Path.GetFileNameWithoutExtension name
            else
                name
        )

    let private listen (options: ServerOptions) (address: IPAddress) (kestrel: KestrelServerOptions) : unit =
        kestrel.AddServerHeader <- false
        // Bodies have a limit of our own, whose answer the client gets to read.
        kestrel.Limits.MaxRequestBodySize <- Nullable()
        kestrel.Limits.RequestHeadersTimeout <- options.ArrivalTimeout
        kestrel.Limits.MaxConcurrentConnections <- Nullable mostConnections

        kestrel.Listen(
            address,
            options.Port,
            fun listening ->
                listening.Use(Func<ConnectionDelegate, ConnectionDelegate> Rejections.explain) |> ignore
        )

    let private map (service: Service) (app: WebApplication) : unit =
        let at (methods: string list) (path: string) (serve: HttpContext -> Task) =
            app.MapMethods(path, methods, RequestDelegate serve) |> ignore

        let get, post = at [ "GET"; "HEAD" ], at [ "POST" ]
        post "/v1/completions" (Completions.serve service)
        post "/v1/chat/completions" (ChatCompletions.serve service)
        get "/v1/models" (Facts.models service)
        get "/v1/models/{**id}" (Facts.modelNamed service)
        post "/tokenize" (Tokens.tokenize service)
        post "/detokenize" (Tokens.detokenize service)
        get "/tokenizer_info" (Tokens.info service)
        get "/health" (Facts.health service)
        get "/metrics" (Facts.metrics service)
        get "/" PlaygroundPage.serve

    let private build (options: ServerOptions) (address: IPAddress) (service: Service) : WebApplication =
        // Empty: nothing of the environment or of a settings file may say where to listen.
        let builder = WebApplication.CreateEmptyBuilder(WebApplicationOptions())
        builder.WebHost.UseKestrelCore().ConfigureKestrel(listen options address) |> ignore
        builder.Services.AddRoutingCore().AddSingleton<IHostLifetime> noLifetime |> ignore
        let app = builder.Build()

        app.Use(Func<RequestDelegate, RequestDelegate>(Guard.stand options)) |> ignore
        app.UseRouting() |> ignore
        map service app
        app

    let private tryStart
        (options: ServerOptions)
        (app: WebApplication)
        : Task<Result<unit, LayerSkipError list>> =
        task {
            try
                do! app.StartAsync()
                return Ok()
            with
            | :? IOException as e when (e.InnerException :? AddressInUseException) ->
                return Check.outOfRange "port" (string options.Port) "one that no other program listens on"
            | :? SocketException as e ->
                return
                    Check.outOfRange
                        "host"
                        options.Host
                        $"an address that can be listened on ({e.SocketErrorCode})"
        }

    /// Serves a model until the result is stopped; the caller keeps the checkpoint for as long, and disposes it. Errors: options outside their
    /// ranges, a drafting that the model has not, an address or a port that cannot be listened on.
    let start
        (options: ServerOptions)
        (checkpoint: Checkpoint)
        : Task<Result<RunningServer, LayerSkipError list>> =
        task {
            let model = new ServedModel(nameOf options checkpoint, checkpoint)

            // Made once before any request is: its faults are known then, and what passes cost is measured.
            let drafting = WritingOptions.strategy model Sampling.Greedy options.Drafting |> Check.faults

            match faults options checkpoint.Config @ drafting, address options with
            | [], Ok address ->
                let service = {
                    Options = options
                    Model = model
                    Engine = new Engine(checkpoint, options.Engine)
                    Gate = Gate(options.Engine.Slots + options.Engine.Queue)
                    Metrics = Metrics model.Name
                }

                let app = build options address service

                match! tryStart options app with
                | Ok() -> return Ok(RunningServer(app, service))
                | Error faults ->
                    do! service.Engine.Stop()
                    (model :> IDisposable).Dispose()
                    do! app.DisposeAsync()
                    return Error faults
            | faults, _ ->
                (model :> IDisposable).Dispose()
                return Error faults
        }

namespace LayerSkip.Cli

open System
open System.Net
open System.Threading.Tasks
open LayerSkip
open LayerSkip.Server

/// `layerskip serve`. Nothing else in the command names the server, so that no other sub-command loads it.
[<RequireQualifiedAccess>]
module internal ServeCommand =
    /// What clients call a model that came from the hub: its name there, whatever the revision.
    let private hubName (common: Common) : string option =
        common.Model |> Option.bind Hub.tryName |> Option.map _.Repository

    let private options (terminal: Terminal) (common: Common) (given: ServeOptions) : ServerOptions =
        let standard = ServerOptions.defaults
        let seconds = int64 >> float >> TimeSpan.FromSeconds
        let bytes (mib: int) = 1024L * 1024L * int64 mib

        {
            standard with
                Host = defaultArg given.Host standard.Host
                Port = defaultArg given.Port standard.Port
                ModelName = given.ModelName |> Option.orElse (hubName common)
                ApiKey = given.ApiKey
                CorsOrigins = given.CorsOrigins
                Drafting = given.Drafting
                Engine = { given.Engine with KvBytes = Option.map bytes given.KvMib }
                MaxPromptTokens = given.MaxPromptTokens
                MaxBodyBytes =
                    given.MaxBodyMib |> Option.map bytes |> Option.defaultValue standard.MaxBodyBytes
                RequestTimeout =
                    given.RequestSeconds |> Option.map seconds |> Option.defaultValue standard.RequestTimeout
                ShutdownTimeout =
                    given.ShutdownSeconds
                    |> Option.map seconds
                    |> Option.defaultValue standard.ShutdownTimeout
                Remark = Terminal.remark terminal
        }

    /// What should be known of a server that others can reach.
    let private warn (terminal: Terminal) (options: ServerOptions) : unit =
        match IPAddress.TryParse options.Host with
        | true, address when not (IPAddress.IsLoopback address) && options.ApiKey.IsNone ->
            Terminal.remark
                terminal
                $"whoever reaches {options.Host} can use this server; give --api-key (or {ServeOptions.keyVariable}) to ask for a key"
        | _ -> ()

    let private tell
        (terminal: Terminal)
        (common: Common)
        (checkpoint: Checkpoint)
        (server: RunningServer)
        : unit =
        if common.Json then
            Terminal.result
                terminal
                (JsonWrite.line (fun json ->
                    json.WriteString("address", server.Address)
                    json.WriteString("model", server.ModelName)
                    json.WriteString("device", Inputs.deviceName checkpoint.Weights.Device)
                    json.WriteNumber("threads", CpuKernels.threads ())))

            terminal.Out.Flush()
        else
            Terminal.remark terminal (Inputs.machine checkpoint)
            Terminal.remark
                terminal
                $"{server.ModelName} at {server.Address} (playground) and {server.Address}/v1; Ctrl-C ends it"

    /// Runs until a signal; its exit code.
    let run (terminal: Terminal) (common: Common) (arguments: ServeArgument list) : int =
        let given = ServeOptions.read arguments
        use own = Inputs.read common
        let checkpoint = Drafters.withFile given.AdapterFile own
        Inputs.remarks terminal checkpoint
        let options = options terminal common given
        warn terminal options
        let signalled = TaskCompletionSource<int> TaskCreationOptions.RunContinuationsAsynchronously
        use _cooperating = terminal.OnInterrupt(fun code -> signalled.TrySetResult code |> ignore)
        let server = (Server.start options checkpoint).GetAwaiter().GetResult() |> Check.getOrRaise
        tell terminal common checkpoint server
        let code = signalled.Task.GetAwaiter().GetResult()
        Terminal.remark terminal "ending: what runs is finished"
        server.StopAsync().GetAwaiter().GetResult()
        code

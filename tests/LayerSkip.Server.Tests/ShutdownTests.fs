module LayerSkip.Server.Tests.ShutdownTests

open System
open System.Diagnostics
open System.IO
open System.Net.Http
open System.Text.Json
open System.Threading
open Expecto
open LayerSkip
open LayerSkip.Cli
open LayerSkip.Server.Tests.ServerSupport
open LayerSkip.Tests.Support

let private long =
    """{"prompt": "Once upon a time", "max_tokens": 490, "temperature": 0, "ignore_eos": true, "stream": true"""

/// The command in a process of its own, with its address.
let private serve (arguments: string list) (body: Process -> string -> HttpClient -> unit) : string =
    let program = Path.ChangeExtension(typeof<Terminal>.Assembly.Location, ".dll")
    let words = [ program; "serve"; "--port"; "0"; "--threads"; "1"; "--json" ] @ arguments
    let start = ProcessStartInfo("dotnet", words, RedirectStandardOutput = true, RedirectStandardError = true)
    start.WorkingDirectory <- root
    start.Environment["LAYERSKIP_API_KEY"] <- ""
    use running = Process.Start start
    let error = running.StandardError.ReadToEndAsync()

    try
        let line = running.StandardOutput.ReadLine()

        if isNull line then
            failtest (wait error)

        let address = text "address" (JsonDocument.Parse(line).RootElement)
        use client = new HttpClient(BaseAddress = Uri address)
        body running address client
    finally
        if not (running.WaitForExit 20_000) then
            running.Kill()

    wait error

let private signal (running: Process) (name: string) =
    use kill = Process.Start("kill", [ $"-{name}"; string running.Id ])
    kill.WaitForExit()

let private offlineLong () =
    let checkpoint = checkpoint.Force()
    let ids = Tokenizer.encode checkpoint.Tokenizer.Value "Once upon a time"
    let completion =
        Generation.complete
            checkpoint.Weights
            checkpoint.Tokenizer
            (GenerationOptions.greedy Strategy.Autoregressive 490)
            ids
    (Check.getOrRaise completion).Text.Value

let private isStreaming (client: HttpClient) =
    let response = startStream client "/v1/completions" (long + "}") CancellationToken.None |> wait
    Expect.isTrue response.IsSuccessStatusCode "it streams"
    response

[<Tests>]
let tests =
    testList "shutdown" [
        testCase "SIGTERM finishes what runs, refuses what comes, and ends with 143" (fun () ->
            let error =
                serve [] (fun running _ client ->
                    let response = isStreaming client
                    signal running "TERM"
                    let events = readEvents response CancellationToken.None |> wait
                    Expect.equal (textOf events).Length ((offlineLong ()).Length) "the whole text"
                    Expect.isTrue (running.WaitForExit 20_000) "it ends"
                    Expect.equal running.ExitCode 143 "exit code"
                    Expect.throws (fun () -> wait (client.GetAsync "/health") |> ignore) "nobody listens")

            Expect.isFalse (error.Contains "   at ") error)

        testCase "what runs longer than it may is cancelled" (fun () ->
            serve [ "--shutdown-timeout"; "1" ] (fun running _ client ->
                let body =
                    """{"prompt": "Once upon a time", "max_tokens": 490, "temperature": 0, "ignore_eos": true, "stream": true, "n": 64}"""
                let response = startStream client "/v1/completions" body CancellationToken.None |> wait
                let clock = Stopwatch.StartNew()
                signal running "INT"
                let events = readEvents response CancellationToken.None |> wait
                Expect.equal (text "error.code" (List.last events)) "shutting_down" "it is told"
                Expect.isTrue (running.WaitForExit 20_000) "it ends"
                Expect.equal running.ExitCode 130 "exit code"
                Expect.isLessThan clock.Elapsed.TotalSeconds 15.0 "soon")
            |> ignore)

        testCase "a port in use, a key that is empty and an address of nowhere are bad input" (fun () ->
            let refused (arguments: string list) =
                use error = new StringWriter()
                let code = Program.run (new StringWriter()) error (Array.ofList ("serve" :: arguments))
                Expect.equal code 2 (string error)
                Expect.equal ((string error).TrimEnd().Split('\n').Length) 1 (string error)
                string error

            let port = Uri((fst (shared.Force())).Address).Port
            Expect.stringContains (refused [ "--port"; string port ]) "--port" "port"
            Expect.stringContains (refused [ "--api-key"; "" ]) "--api-key" "key"
            Expect.stringContains (refused [ "--host"; "nowhere" ]) "--host" "host"
            Expect.stringContains (refused [ "--port"; "99999" ]) "--port" "port"
            Expect.stringContains (refused [ "--slots"; "0" ]) "--slots" "slots"
            Expect.stringContains (refused [ "--cors-origin"; "foo" ]) "--cors-origin is foo" "origin"
            Expect.stringContains (refused [ "--max-prompt-tokens"; "600" ]) "1 to 511" "prompt"
            Expect.stringContains (refused [ "--kv-memory"; "0" ]) "--kv-memory" "memory"
            Expect.stringContains
                (refused [ "--served-model-name"; "" ])
                "--served-model-name is empty; name what clients call the model"
                "name"
            Expect.stringContains (refused [ "--exit-layer"; "99" ]) "--exit-layer" "exit"

            Expect.stringContains
                (refused [ "--strategy"; "autoregressive"; "--draft-length"; "3" ])
                "--draft-length and --strategy autoregressive exclude each other"
                "a draft length in vain")
    ]

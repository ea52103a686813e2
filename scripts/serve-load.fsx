// Puts clients that stream at once on a server of its own for some time: every text must be the greedy text of its prompt, and memory
// must stay what it is. Then one client, against `generate`.
//
//     dotnet fsi scripts/serve-load.fsx
//     dotnet fsi scripts/serve-load.fsx --clients 8 --seconds 10 --model DIR
#load "options.fsx"

open Options

let given =
    Given [
        "--model DIR", "models/stories-10m"
        "--clients N", "32"
        "--seconds N", "60"
        "--max-tokens N", "128"
        "--threads N", "2"
        "--runs N", "15"
    ]

#if !READY
#load "build.fsx"
exit (Build.runReady (__SOURCE_DIRECTORY__ + "/" + __SOURCE_FILE__) fsi.CommandLineArgs[1..])
#else

open System
open System.Diagnostics
open System.IO
open System.Net.Http
open System.Text
open System.Text.Json
open System.Threading.Tasks
open LayerSkip

let path = given.Path "--model"
let clients, seconds = given.Whole("--clients", 1), given.Whole("--seconds", 1)
let limit, threads = given.Whole("--max-tokens", 1), given.Whole("--threads", 1)
let runs = given.Whole("--runs", 1)

let root = Path.GetFullPath(Path.Combine(__SOURCE_DIRECTORY__, ".."))
let command = Path.Combine(root, "src", "LayerSkip.Cli", "bin", "Release", "net10.0", "LayerSkip.Cli.dll")

if not (File.Exists command) then
    stop 1 "the command is not built; dotnet build -c Release src/LayerSkip.Cli"

/// Starts the command; its standard output is ours.
let start (words: string list) =
    let info =
        ProcessStartInfo(
            "dotnet",
            command :: words,
            RedirectStandardOutput = true,
            RedirectStandardError = true
        )
    let running = Process.Start info
    // What nobody reads would hold it up.
    running.ErrorDataReceived.Add(fun _ -> ())
    running.BeginErrorReadLine()
    running

// What every text must be.
let prompts = [|
    "Once upon a time"
    "The dog"
    "One day, a little girl named Lily"
    "Tom had a red ball"
    "It was raining and"
    "The sun was"
    "Ben and Mia went to the park"
    "In the garden"
    "There was a big cat who"
    "Mom said"
    "The little bird could not"
    "A boy found a box"
|]

let ways = [|
    ""
    ", \"policy\": \"static\""
    ", \"strategy\": \"autoregressive\""
    ", \"drafter\": \"lookup\""
    ", \"exit_layer\": 2, \"draft_length\": 6"
|]

let expected =
    use model = Checkpoint.load path None Device.Cpu |> orStop

    let options = { GenerationOptions.greedy Strategy.Autoregressive limit with StopIds = model.StopIds }

    prompts
    |> Array.map (fun prompt ->
        let ids = Tokenizer.encode model.Tokenizer.Value prompt
        (Generation.complete model.Weights model.Tokenizer options ids |> orStop).Text.Value)

let server =
    start [
        "serve"
        "--port"
        "0"
        "--json"
        "--threads"
        string threads
        "--model"
        path
    ]

let address =
    match server.StandardOutput.ReadLine() with
    | null -> stop 1 "the server did not start"
    | line -> JsonDocument.Parse(line).RootElement.GetProperty("address").GetString()

let http = new HttpClient(BaseAddress = Uri address, Timeout = TimeSpan.FromMinutes 5.0)

type Outcome = { Prompt: int; Text: string; Tokens: int; FirstMs: float; LastMs: float; WholeMs: float }

/// A streamed text, and when its parts came, in milliseconds from the request.
let ask (prompt: string) (more: string) (tokens: int) : Task<Outcome> =
    task {
        let clock = Stopwatch.StartNew()

        let body =
            $"""{{"prompt": {JsonSerializer.Serialize prompt}, "max_tokens": {tokens}, "temperature": 0, "stream": true, "stream_options": {{"include_usage": true}}{more}}}"""

        use request = new HttpRequestMessage(HttpMethod.Post, "/v1/completions")
        request.Content <- new StringContent(body, Encoding.UTF8, "application/json")
        use! response = http.SendAsync(request, HttpCompletionOption.ResponseHeadersRead)

        if not response.IsSuccessStatusCode then
            let! text = response.Content.ReadAsStringAsync()
            stop 1 text

        use! stream = response.Content.ReadAsStreamAsync()
        use reader = new StreamReader(stream)
        let text = StringBuilder()
        let mutable first, last, made, isOpen = 0.0, 0.0, 0, true

        while isOpen do
            match! reader.ReadLineAsync() with
            | null
            | "data: [DONE]" -> isOpen <- false
            | "" -> ()
            | line ->
                use event = JsonDocument.Parse(line.Substring 6)
                let root = event.RootElement
                let choices = root.GetProperty "choices"

                if choices.GetArrayLength() > 0 then
                    last <- clock.Elapsed.TotalMilliseconds
                    if first = 0.0 then
                        first <- last
                    text.Append(choices[0].GetProperty("text").GetString()) |> ignore
                else
                    made <- root.GetProperty("usage").GetProperty("completion_tokens").GetInt32()

        return {
            Prompt = Array.IndexOf(prompts, prompt)
            Text = text.ToString()
            Tokens = made
            FirstMs = first
            LastMs = last
            WholeMs = clock.Elapsed.TotalMilliseconds
        }
    }

let memory () =
    File.ReadLines $"/proc/{server.Id}/status"
    |> Seq.find _.StartsWith("VmRSS:")
    |> fun line -> float (line.Split(' ', StringSplitOptions.RemoveEmptyEntries)[1]) / 1024.0

let at (share: float) (values: float[]) =
    let sorted = Array.sort values
    sorted[min (sorted.Length - 1) (int (share * float sorted.Length))]

// Alone first: what must be loaded is, and code is compiled.
for place in 0 .. prompts.Length - 1 do
    (ask prompts[place] ways[place % ways.Length] limit).Wait()

let clock = Stopwatch.StartNew()
let memories = ResizeArray [ memory () ]

let client (number: int) =
    task {
        let outcomes = ResizeArray<Outcome>()
        let mutable turn = number

        while clock.Elapsed.TotalSeconds < float seconds do
            let! outcome = ask prompts[turn % prompts.Length] ways[turn / 3 % ways.Length] limit
            outcomes.Add outcome
            turn <- turn + 7

        return outcomes.ToArray()
    }

let working = Task.WhenAll [| for number in 1..clients -> client number |]

while not (working.Wait(TimeSpan.FromSeconds(float seconds / 12.0))) do
    memories.Add(memory ())

let elapsed = clock.Elapsed.TotalSeconds
let outcomes = Array.concat working.Result
let wrong = outcomes |> Array.filter (fun outcome -> outcome.Text <> expected[outcome.Prompt])
let ms (value: float) = value.ToString("0", Globalization.CultureInfo.InvariantCulture)
let first, whole = outcomes |> Array.map _.FirstMs, outcomes |> Array.map _.WholeMs
let tokens = outcomes |> Array.sumBy _.Tokens

printfn
    $"{clients} clients, {ms elapsed} s: {outcomes.Length} texts, {wrong.Length} lost or mixed; {tokens} tokens, {ms (float tokens / elapsed)} a second"
printfn
    $"first token p50 {ms (at 0.5 first)} ms, p95 {ms (at 0.95 first)} ms; whole text p50 {ms (at 0.5 whole)} ms, p95 {ms (at 0.95 whole)} ms"
printfn $"""memory in MiB, start to end: {memories |> Seq.map ms |> String.concat " "}"""

// One client against the command and the library, by turns: new tokens over the whole time, from the prompt to the last token.
let length = 400
let alone = prompts[0]
let model = Checkpoint.load path None Device.Cpu |> orStop
CpuKernels.setThreads threads

let options = {
    GenerationOptions.greedy Strategy.Autoregressive length with
        Strategy = StrategyChoice.create Sampling.Greedy model StrategyChoice.none |> orStop
}

let generated () =
    use running =
        start [
            yield! [ "generate"; "--json"; "--model"; path; "--threads"; string threads ]
            yield! [ "--prompt"; alone; "--max-new-tokens"; string length; "--ignore-eos" ]
        ]

    let out = running.StandardOutput.ReadToEnd()
    running.WaitForExit()
    let timings = JsonDocument.Parse(out).RootElement.GetProperty "timings"
    let ms (name: string) = timings.GetProperty(name).GetDouble()
    1000.0 * float length / (ms "ttft_ms" + ms "decode_ms")

let decoded () =
    let ids = Tokenizer.encode model.Tokenizer.Value alone
    let completion = Generation.complete model.Weights model.Tokenizer options ids |> orStop
    1000.0 * float length / (completion.Timings.TtftMs + completion.Timings.DecodeMs)

let served () =
    let outcome = (ask alone ", \"ignore_eos\": true" length).Result
    1000.0 * float outcome.Tokens / outcome.WholeMs

let turns = [| for _ in 0..runs -> generated (), decoded (), served () |]
// The first turn compiles.
let rate choose = turns[1..] |> Array.map choose |> at 0.5
let command', library, server' =
    rate (fun (a, _, _) -> a), rate (fun (_, b, _) -> b), rate (fun (_, _, c) -> c)
printfn $"one client, tokens a second: generate {ms command'}, library {ms library}, server {ms server'}"
printfn $"over the server: generate {command' / server':F2}, library {library / server':F2}"

using (Process.Start("kill", [ "-TERM"; string server.Id ])) _.WaitForExit()

if not (server.WaitForExit 40_000) then
    server.Kill()

if wrong.Length > 0 then
    stop 1 "a text is not the greedy text of its prompt"
#endif

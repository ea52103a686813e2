/// What the fuzz test runs as a process of its own, so that a crash is a finding and not the end of the tests: models
/// changed at random are loaded, and decode four tokens, in this process.
module LayerSkip.Tests.FuzzProgram

open System
open System.Collections.Generic
open System.Diagnostics
open System.IO
open System.Runtime.InteropServices
open System.Threading
open LayerSkip
open LayerSkip.Tests.FuzzCorpus

let word = "as-a-fuzzer"

[<DllImport("libc", EntryPoint = "_exit")>]
extern void private endNow(int code)

/// What came of a changed model.
[<RequireQualifiedAccess>]
type Outcome =
    /// It loaded and decoded, both ways alike.
    | Decoded
    /// Loading or generating gave errors.
    | Refused of string
    /// Decoding gave an error, where no Result can go.
    | Stopped of string

/// A case and what is wrong with it.
type Finding = { Case: int; What: string }

let private text = "Hello wörld, it's 12345! \u1ebf\u0323 <s>" + String('a', 40) + "\n\t</s>  e\u0301"

let private decode (model: Checkpoint) (strategy: Strategy) (prompt: int[]) =
    let options = { GenerationOptions.greedy strategy 4 with StopIds = model.StopIds }
    Generation.complete model.Weights model.Tokenizer options prompt

/// Loads a model and decodes four tokens, plainly and speculatively.
let private attempt (path: string) : Outcome =
    let refused faults = Outcome.Refused(LayerSkipError.summary faults)

    try
        match Checkpoint.load path None Device.Cpu with
        | Error faults -> refused faults
        | Ok model ->
            use model = model

            let prompt =
                match model.Tokenizer with
                | Some tokenizer -> Tokenizer.encode tokenizer text |> Array.truncate 24
                | None -> [| 1; 3; 4 |]

            match decode model Strategy.Autoregressive prompt with
            | Error faults -> refused faults
            | Ok plain when model.Config.Layers < 2 ->
                plain.Text |> ignore
                Outcome.Decoded
            | Ok plain ->
                let strategy = Strategy.SelfSpeculative(Tiny.exit model.Config.Layers 1, 2)

                match decode model strategy prompt with
                | Error faults ->
                    failwith $"plain decoding works, speculative says {LayerSkipError.summary faults}"
                | Ok speculative when speculative.TokenIds <> plain.TokenIds ->
                    failwith $"plain decoding writes %A{plain.TokenIds}, speculative %A{speculative.TokenIds}"
                | Ok _ -> Outcome.Decoded
    with :? LayerSkipException as e ->
        Outcome.Stopped e.Message

/// What a message must not be: long, of several lines, with codes that a terminal obeys, or an exception's.
let private faultOf (message: string) : string option =
    if message.Length > 2000 then
        Some $"a message of {message.Length} characters"
    elif message |> Seq.exists Char.IsControl then
        Some $"a message with control characters: {message}"
    elif [ "Exception"; "System."; "   at "; "Parameter '" ] |> List.exists message.Contains then
        Some $"a message with code in it: {message}"
    else
        None

/// The files of a case and the model to load: the same for the same seed and number.
let private changed (corpus: Sound[]) (seed: int) (case: int) : Map<string, byte[]> * string * string =
    let random = Random(seed * 1_000_003 + case)
    let sound = corpus[random.Next corpus.Length]
    let mutable files = sound.Files
    let names = ResizeArray()

    for _ in 0 .. (if random.Next 3 = 0 then random.Next 4 else 0) do
        let name = Seq.item (random.Next files.Count) files.Keys
        names.Add name
        let mutate =
            if random.Next 8 = 0 then
                FuzzBytes.bytes
            else
                FuzzMutation.ofFile name
        files <- files.Add(name, mutate random files[name])

    files, sound.Model, $"""{sound.Name}: {String.concat ", " names}"""

let private memory (name: string) =
    File.ReadLines "/proc/self/status"
    |> Seq.pick (fun line ->
        if line.StartsWith(name + ":") then
            Some(Int64.Parse(line.Substring(name.Length + 1).Replace("kB", "").Trim()) / 1024L)
        else
            None)

/// The most seconds that a case may take before the run is ended: far above what is normal, for slow machines.
let private patience = 60.0

/// arguments: MODEL, for one model alone; or SEED FIRST SECONDS FOLDER. Writes what it found to standard output, one finding a line, after a line of counts.
let run (arguments: string list) : int =
    match arguments with
    | [ model ] ->
        Backend.setThreads 1
        printfn $"%A{attempt model}"
        0
    | [ seed; first; seconds; folder ] ->
        let seed, first, seconds = int seed, int first, float seconds
        Backend.setThreads 1
        let corpus = sound ()
        let findings = List<Finding>()
        let counts = Dictionary<string, int>()
        let mutable case, slowest, largest = first, (0.0, first), (0L, first)
        let mutable began = Stopwatch.GetTimestamp()
        let model = Path.Combine(folder, "case")

        let report (case: int) (what: string) =
            findings.Add { Case = case; What = what.ReplaceLineEndings " " }
            // Kept, to be looked at.
            let kept = Path.Combine(folder, $"found-{case}")

            if findings.Count <= 20 && Directory.Exists model && not (Directory.Exists kept) then
                Directory.Move(model, kept)

        let summary () =
            let counted = [ for KeyValue(name, count) in counts -> $"{count} {name}" ]
            printfn
                $"""{case - first} cases: {String.concat ", " counted}; slowest %.1f{fst slowest} s (case {snd slowest}), most memory {fst largest} MB (case {snd largest})"""

            for finding in findings do
                printfn $"case {finding.Case}: {finding.What}"

        use _watch =
            new Timer(
                (fun _ ->
                    if Stopwatch.GetElapsedTime(began).TotalSeconds > patience then
                        findings.Add { Case = case; What = $"no end within {patience} s" }
                        summary ()
                        Console.Out.Flush()
                        endNow 3),
                null,
                1000,
                1000
            )

        let whole = Stopwatch.StartNew()

        while whole.Elapsed.TotalSeconds < seconds && findings.Count < 20 do
            // Where this process dies, its parent reads which case it was.
            File.WriteAllText(Path.Combine(folder, "at"), string case)
            let files, name, what = changed corpus seed case

            if Directory.Exists model then
                Directory.Delete(model, true)

            Directory.CreateDirectory model |> ignore

            for KeyValue(name, bytes) in files do
                File.WriteAllBytes(Path.Combine(model, name), bytes)

            // The peak is measured from here.
            File.WriteAllText("/proc/self/clear_refs", "5")
            let before = memory "VmRSS"
            began <- Stopwatch.GetTimestamp()

            let outcome =
                try
                    let outcome = attempt (Path.Combine(model, name))

                    match outcome with
                    | Outcome.Decoded -> "decoded"
                    | Outcome.Refused message ->
                        faultOf message |> Option.iter (fun fault -> report case $"{what}: {fault}")
                        "refused"
                    | Outcome.Stopped message ->
                        faultOf message |> Option.iter (fun fault -> report case $"{what}: {fault}")
                        "stopped while decoding"
                with e ->
                    report case $"{what}: {e.GetType().Name}: {e.Message} {e.StackTrace}"
                    "failed"

            let took = Stopwatch.GetElapsedTime(began).TotalSeconds
            let grew = memory "VmHWM" - before
            counts[outcome] <- 1 + counts.GetValueOrDefault outcome

            slowest <- max slowest (took, case)
            largest <- max largest (grew, case)

            if grew > 1024L then
                report case $"{what}: took {grew} MB"

            case <- case + 1
            began <- Stopwatch.GetTimestamp()

        summary ()
        0
    | _ -> 2

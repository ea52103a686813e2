module LayerSkip.Tests.CliTests

open System
open System.IO
open System.Reflection
open System.Text.Json
open System.Text.RegularExpressions
open FSharp
open Expecto
open LayerSkip.Cli
open LayerSkip.Tests.FileSupport
open LayerSkip.Tests.CliSupport

let private terminal out (error: TextWriter) colour interrupt = {
    Out = out
    Error = error
    Colour = colour
    Status = StatusLine(error, false)
    Shown = id
    OnInterrupt = interrupt
}

/// A pipe whose reader has gone.
type private ClosedPipe() =
    inherit StringWriter()
    override _.Write(_text: string) : unit = raise (IOException("Broken pipe", 32))

let private nothing = {
    new IDisposable with
        member _.Dispose() = ()
}

[<Tests>]
let others =
    testList "command line" [
        testCase "the schema has the structure that Argu wants" (fun () -> Program.checkStructure ())

        testCase "every option that takes a value takes it after =" (fun () ->
            let takesValue (case: Reflection.UnionCaseInfo) =
                match case.GetFields() with
                | [| field |] -> not (field.PropertyType.Name.StartsWith "ParseResults")
                | _ -> false

            let all = BindingFlags.Public ||| BindingFlags.NonPublic

            let spaced = [
                for schema in typeof<Terminal>.Assembly.GetTypes() do
                    if
                        not (isNull (schema.GetInterface "IArgParserTemplate"))
                        && Reflection.FSharpType.IsUnion(schema, all)
                    then
                        for case in Reflection.FSharpType.GetUnionCases(schema, all) do
                            let attributes = case.GetCustomAttributes() |> Array.map _.GetType().Name

                            // A main command's values have no name before them.
                            if
                                takesValue case
                                && not (Array.contains "MainCommandAttribute" attributes)
                                && not (Array.contains "EqualsAssignmentOrSpacedAttribute" attributes)
                            then
                                $"{schema.Name}.{case.Name}"
            ]

            Expect.isEmpty spaced "options"

            withModel (fun folder ->
                let made =
                    json [
                        yield! [
                            "generate"
                            $"--model={folder}"
                            "--prompt-ids=3"
                            "--strategy=self-speculative"
                        ]
                        yield! [
                            "--exit-layer=2"
                            "--draft-length=3"
                            "--max-new-tokens=4"
                            "--temperature=0"
                        ]
                        yield! [
                            "--top-k=0"
                            "--top-p=1"
                            "--dtype=f64"
                            "--device=cpu"
                            "--threads=1"
                            "--seed=-1"
                        ]
                    ]

                Expect.equal (tokenIds made).Length 4 "tokens"))

        testCase "--version tells the version" (fun () ->
            let outcome = cli [ "--version" ]
            Expect.equal (outcome.Code, outcome.Error) (0, "") "done"
            Expect.isTrue (Regex.IsMatch(outcome.Out, @"^layerskip \d+\.\d+\.\d+\n$")) outcome.Out)

        testCase "--help is on standard output" (fun () ->
            for command in [] :: List.map List.singleton Program.commands do
                let outcome = cli (command @ [ "--help" ])
                Expect.equal (outcome.Code, outcome.Error) (0, "") "done"
                let isManaged = List.contains command [ [ "tokenizer" ]; [ "merge" ]; [ "pull" ] ]
                Expect.equal
                    (outcome.Out.Contains "--model=<")
                    (not isManaged)
                    "the model, where one is read"
                Expect.stringContains outcome.Out "--json" "the manual")

        testCase "a manual has the options that count, in the command's own words" (fun () ->
            let manual (command: string) =
                let words = (cli (typed $"{command} --help")).Out.Split([| ' '; '\n' |])
                String.Join(' ', words |> Array.filter (String.IsNullOrEmpty >> not))

            for command, has, hasNot in
                [
                    "pull", [ "--json"; "CACHE:" ], [ "--dtype"; "--threads"; "--seed" ]
                    "tokenizer train", [ "--text"; "--threads" ], [ "--dtype"; "--model=<" ]
                    "serve", [ "--kv"; "dtype of the weights" ], [ "--seed"; "In export"; "q5_k_m" ]
                    "export", [ "what is written"; "q5_k_m" ], [ "--kv"; "In train"; "weights in memory" ]
                    "train", [ "what the passes compute in" ], [ "--prefill"; "In export"; "q5_k_m" ]
                    "info", [ "--kv" ], [ "--prefill"; "--seed=" ]
                    "", [ "--seed"; "In export what is written"; "In train what"; "q5_k_m" ], []
                ] do
                let text = manual command

                for word in has do
                    Expect.stringContains text word command

                for word in hasNot do
                    Expect.isFalse (text.Contains word) $"{command}: {word}")

        testCase "certify says on a terminal that it works, and clears it away" (fun () ->
            withModel (fun folder ->
                use error = new StringWriter()
                let terminal = terminal TextWriter.Null error false (fun _ -> nothing)
                let terminal = { terminal with Status = StatusLine(error, true) }

                let arguments = [
                    "certify"
                    "--model"
                    folder
                    "--exit-layers"
                    "1"
                    "--draft-lengths"
                    "1"
                ]

                Expect.equal (Program.runWith terminal (Array.ofList arguments)) 0 (error.ToString())
                Expect.stringContains (error.ToString()) $"\rcertifying {folder}, 0 s" "shown"
                Expect.stringEnds (error.ToString()) " \r" "cleared"))

        testCase "tokens are coloured on a terminal, and the legend explains it" (fun () ->
            withModel (fun folder ->
                use out = new StringWriter()
                use error = new StringWriter()
                let arguments = [ "generate"; "--model"; folder; "--exit-layer"; "2" ] @ ids @ count 20
                let code =
                    Program.runWith (terminal out error true (fun _ -> nothing)) (Array.ofList arguments)
                Expect.equal code 0 (error.ToString())
                Expect.stringContains (out.ToString()) "\u001b[31m" "a correction in red"
                Expect.isFalse
                    (error.ToString().Contains '\u001b')
                    "no colour where standard error is a file"

                let terminal = terminal out error true (fun _ -> nothing)
                let live = { terminal with Status = StatusLine(error, true) }
                Program.runWith live (Array.ofList arguments) |> ignore
                Expect.stringContains (error.ToString()) "\u001b[32mdrafted" "the legend"))

        testCase "a signal ends the line, and the process with its code" (fun () ->
            withModel (fun folder ->
                for signal in [ 130; 143 ] do
                    use out = new StringWriter()
                    use error = new StringWriter()
                    let arguments = [ "generate"; "--model"; folder ] @ ids
                    let interrupt onSignal =
                        onSignal signal
                        nothing

                    let code = Program.runWith (terminal out error false interrupt) (Array.ofList arguments)
                    Expect.equal (code, out.ToString()) (signal, "\n") "interrupted"))

        testCase "colours are for a terminal that knows them, unless NO_COLOR says something" (fun () ->
            let isColourful isTerminal variables =
                Terminal.isColourful isTerminal (fun name ->
                    variables
                    |> List.tryPick (fun (n, v) -> if n = name then Some v else None)
                    |> Option.toObj)

            Expect.isTrue (isColourful true [ "TERM", "xterm" ]) "a terminal"
            Expect.isTrue (isColourful true [ "TERM", "xterm"; "NO_COLOR", "" ]) "NO_COLOR is empty"
            Expect.isFalse (isColourful true [ "TERM", "xterm"; "NO_COLOR", "0" ]) "NO_COLOR"
            Expect.isFalse (isColourful true [ "TERM", "dumb" ]) "a dumb terminal"
            Expect.isFalse (isColourful true []) "one of which nothing is known"
            Expect.isFalse (isColourful false [ "TERM", "xterm" ]) "a pipe")

        testCase "a status line is written over, and gone before a remark and for good at its end" (fun () ->
            use error = new StringWriter()
            let status = StatusLine(error, true)
            let terminal = { terminal TextWriter.Null error false (fun _ -> nothing) with Status = status }
            status.Show "12"
            status.Show "1"
            Terminal.remark terminal "remark"
            status.End()
            status.Show "3"
            Expect.equal (error.ToString()) "\r12\r1 \r \rremark\n" "written")

        testCase "a pipe that nobody reads ends the work quietly" (fun () ->
            withModel (fun folder ->
                use closed = new ClosedPipe()
                use error = new StringWriter()
                let arguments = [ "generate"; "--model"; folder ] @ ids
                let code = Program.run closed error (Array.ofList arguments)
                Expect.equal code 0 "quietly"
                Expect.isFalse (error.ToString().Contains "layerskip:") (error.ToString())))

        testCase "info --json has the facts of model and machine" (fun () ->
            withModel (fun folder ->
                let facts = json [ "info"; "--model"; folder ]
                let model, machine = facts.GetProperty "model", facts.GetProperty "machine"
                let number (name: string) = (model.GetProperty name).GetInt32()

                Expect.equal
                    (number "layers", number "hidden", number "vocabulary", number "kv_heads")
                    (4, 16, 24, 2)
                    "sizes"

                Expect.equal (number "bytes") (8 * number "parameters") "float64"
                Expect.equal ((machine.GetProperty "device").GetString()) "cpu" "device"
                Expect.isGreaterThan ((machine.GetProperty "threads").GetInt32()) 0 "threads"

                let table = cli [ "info"; "--model"; folder ]

                for word in [ "llama"; "parameters"; "libtorch"; "none (libtorch)"; "recommended" ] do
                    Expect.stringContains table.Out word "table"))

        testCase
            "--kv: generate, bench and certify say what the cache held, info what a position takes"
            (fun () ->
                withModel (fun folder ->
                    let kvOf command options =
                        let report = json (command :: "--model" :: folder :: options)
                        (report.GetProperty "kv").GetString()

                    let commands = [
                        "generate", [ "--prompt-ids"; "1"; "--max-new-tokens"; "3" ]
                        "certify", [ "--exit-layers"; "2"; "--draft-lengths"; "2"; "--max-new-tokens"; "3" ]
                        "bench", [ "--runs"; "1"; "--max-new-tokens"; "3" ]
                    ]

                    for command, options in commands do
                        Expect.equal (kvOf command options) "f64" $"{command}: as activations"

                        for kv in [ "f32"; "f16"; "q8" ] do
                            let options = options @ [ "--dtype"; "f32"; "--kv"; kv ]
                            Expect.equal (kvOf command options) kv command

                    let bytes kv =
                        let facts = json [ "info"; "--model"; folder; "--dtype"; "f16"; "--kv"; kv ]
                        ((facts.GetProperty "model").GetProperty "cache_bytes_per_position").GetInt32()

                    // Of each of 4 layers keys and values, 2 heads of 4; two states of 16.
                    let states = 2 * 16 * 4
                    let row (head: int) = 4 * 2 * 2 * head + states
                    Expect.equal
                        (List.map bytes [ "f32"; "f16"; "q8" ])
                        (List.map row [ 16; 8; 8 ])
                        "a position"
                    let table = cli [ "info"; "--model"; folder; "--dtype"; "f16"; "--kv"; "f16" ]
                    Expect.stringContains table.Out "a position (keys and values in f16)" "table"
                    let shape = [
                        "--shape"
                        "hidden=16,layers=2,heads=2,kv-heads=1,intermediate=16,vocab=24"
                    ]
                    let report =
                        json ([ "bench"; "--kv"; "q8"; "--runs"; "1"; "--max-new-tokens"; "3" ] @ shape)
                    Expect.equal ((report.GetProperty "kv").GetString()) "q8" "of a shape"

                    [ "bench"; "--kv"; "q8"; "--dtype"; "f64" ] @ shape
                    |> refuses [ "kv q8 with f64 weights" ]))

        testCase "certify --json writes the contract's object, and the table the same counts" (fun () ->
            withModel (fun folder ->
                let prompts = Path.Combine(folder, "prompts.txt")
                File.WriteAllText(prompts, "1,2,3\n\n4\n")

                let arguments =
                    [ "certify"; "--model"; folder; "--prompts"; prompts; "--exit-layers"; "1,3" ]
                    @ [ "--draft-lengths"; "2"; "--max-new-tokens"; "6" ]

                let report = json arguments

                Expect.equal
                    (fields report)
                    [
                        "model", S
                        "dtype", S
                        "compute", JsonValueKind.Null
                        "kv", S
                        "prefill", S
                        "gap", N
                        "tests", A
                        "exact", N
                        "tie", N
                        "violation", N
                        "worst_gap", N
                        "stored_dtype", JsonValueKind.Null
                    ]
                    "fields"

                let count (name: string) (e: JsonElement) = (e.GetProperty name).GetInt32()

                for test in (report.GetProperty "tests").EnumerateArray() do
                    test |> hasFields [ "name", S; "checks", N; "exact", N; "tie", N; "violation", N ]
                    Expect.equal
                        (count "exact" test + count "tie" test + count "violation" test)
                        (count "checks" test)
                        "sum"

                Expect.equal (count "violation" report) 0 "certified"
                let prefill report = (report: JsonElement).GetProperty("prefill").GetString()
                Expect.equal (prefill report) "auto" "the default"
                Expect.equal (prefill (json (arguments @ [ "--prefill"; "exact" ]))) "exact" "as asked for"
                arguments @ [ "--prefill"; "fast" ] |> refuses [ "prefill"; "fast" ]
                let table = cli arguments
                Expect.equal table.Code 0 table.Error
                Expect.stringContains table.Out ": certified;" "verdict"))

        testCase "the project's one model is the default; several are not guessed among" (fun () ->
            withFolder (fun folder ->
                let inside parts = Path.Combine(Array.ofList (folder :: parts))
                File.WriteAllText(inside [ "LayerSkip.FSharp.sln" ], "")
                let start = (Directory.CreateDirectory(inside [ "src"; "bin" ])).FullName
                Expect.isError (DefaultModel.find start) "no models folder"
                Directory.CreateDirectory(inside [ "models"; "small" ]) |> ignore
                Expect.isError (DefaultModel.find start) "a folder without config.json"
                File.WriteAllText(inside [ "models"; "small"; "config.json" ], "")
                Expect.equal (DefaultModel.find start) (Ok(inside [ "models"; "small" ])) "one"
                File.WriteAllText(inside [ "models"; "other.gguf" ], "")
                Expect.isError (DefaultModel.find start) "two"
                Directory.Delete(inside [ "models"; "small" ], true)
                File.Delete(inside [ "models"; "other.gguf" ])

                for part in 1..2 do
                    File.WriteAllText(inside [ "models"; $"m-0000{part}-of-00002.gguf" ], "")

                let first = inside [ "models"; "m-00001-of-00002.gguf" ]
                Expect.equal (DefaultModel.find start) (Ok first) "one in two parts"))
    ]

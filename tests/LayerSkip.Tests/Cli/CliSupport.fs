module LayerSkip.Tests.CliSupport

open System
open System.Diagnostics
open System.IO
open System.Text.Json
open Expecto
open LayerSkip
open LayerSkip.Cli
open LayerSkip.Tests.FileSupport

/// What a command line came to.
type Outcome = { Code: int; Out: string; Error: string }

/// Runs a command line in this process.
let cli (arguments: string list) : Outcome =
    use out = new StringWriter()
    use error = new StringWriter()
    let code = Program.run out error (Array.ofList arguments)
    { Code = code; Out = out.ToString(); Error = error.ToString() }

/// A command line as it is typed; no word of it holds a space.
let typed (line: string) : string list =
    line.Split([| ' '; '\n' |], StringSplitOptions.RemoveEmptyEntries) |> List.ofArray

/// Bad input: exit code 2, nothing on standard output, and one line on standard error that holds these words.
let refuses (words: string list) (arguments: string list) =
    let outcome = cli arguments
    Expect.equal (outcome.Code, outcome.Out) (2, "") $"%A{arguments}: {outcome.Error}"
    Expect.stringStarts outcome.Error "layerskip: " "it says who speaks"
    Expect.stringEnds outcome.Error "\n" "a whole line"
    Expect.equal (outcome.Error.Split('\n').Length) 2 outcome.Error

    // A line that can be read: paths and tensor names are long, so no word count.
    Expect.isLessThan outcome.Error.Length 400 outcome.Error

    for word in words do
        Expect.stringContains outcome.Error word "helpful words"

/// A folder's files are what they were after `body`, to the byte, and no folder has come.
let leavesAlone (folder: string) (body: unit -> unit) =
    let entries () =
        Directory.GetFileSystemEntries(folder, "*", SearchOption.AllDirectories)
        |> Array.sort
        |> Array.map (fun path -> path, (if File.Exists path then File.ReadAllBytes path else [||]))

    let before = entries ()
    body ()
    Expect.equal (entries ()) before "nothing written"

/// The object on standard output of a command line that succeeds.
let json (arguments: string list) : JsonElement =
    let outcome = cli (arguments @ [ "--json" ])
    Expect.equal outcome.Code 0 outcome.Error
    JsonDocument.Parse(outcome.Out).RootElement

/// The built program.
let program = Path.ChangeExtension(typeof<Terminal>.Assembly.Location, ".dll")

/// Runs a script of bash in `folder`; there `layerskip` is the program, as a process of its own.
let shell (folder: string) (script: string) : Outcome =
    // exec, so that the id of a background job is the program's.
    let start =
        ProcessStartInfo(
            "env",
            [
                "--default-signal=INT,QUIT,HUP"
                "bash"
                "-c"
                "layerskip() { exec dotnet \"$PROGRAM\" \"$@\"; }\n" + script
            ]
        )
    start.WorkingDirectory <- folder
    start.RedirectStandardOutput <- true
    start.RedirectStandardError <- true
    start.Environment["PROGRAM"] <- program
    use running = Process.Start start
    let error = running.StandardError.ReadToEndAsync()
    let out = running.StandardOutput.ReadToEndAsync()

    if not (running.WaitForExit(TimeSpan.FromMinutes 2.0)) then
        running.Kill true
        failtest "the script does not end"

    { Code = running.ExitCode; Out = out.Result; Error = error.Result }

let ints (e: JsonElement) = [| for x in e.EnumerateArray() -> x.GetInt32() |]

let rounds (e: JsonElement) = [| for r in e.EnumerateArray() -> r[0].GetInt32(), r[1].GetInt32() |]

/// The token ids of a result, and its rounds.
let tokenIds (result: JsonElement) = ints (result.GetProperty "token_ids")
let roundsOf (result: JsonElement) = rounds ((result.GetProperty "stats").GetProperty "rounds")

let layers = 4

/// A config.json that Tiny's configuration was read from.
let configJson =
    """{"model_type": "llama", "vocab_size": 24, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 4,
 "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4, "max_position_embeddings": 96, "rms_norm_eps": 1e-5,
 "rope_theta": 10000.0, "tie_word_embeddings": false, "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu"}"""

let private weightsFile folder = Path.Combine(folder, "model.safetensors")

/// Writes a tiny model without a tokenizer; `change` edits its tensors first.
let writeModel (folder: string) (change: (string * Tensor) list -> (string * Tensor) list) : unit =
    use weights = Weights.random 5L 0.8 Dtype.F64 Device.Cpu (Tiny.config 24 layers 4 2 false)

    File.WriteAllText(Path.Combine(folder, "config.json"), configJson)

    TensorWriter.safetensors (weightsFile folder) Map.empty (change (Weights.named weights))
    |> Check.getOrRaise

/// A folder with a sound tiny model, gone after `body`.
let withModel (body: string -> 'T) : 'T =
    withFolder (fun folder ->
        writeModel folder id
        body folder)

/// Rewrites a safetensors file: its header as text, and the bytes after it.
let editWeights (edit: string * byte[] -> string * byte[]) (folder: string) : unit =
    let bytes = File.ReadAllBytes(weightsFile folder)
    let size = int (BitConverter.ToInt64(bytes, 0))
    let header, data = edit (Text.Encoding.UTF8.GetString(bytes, 8, size), bytes[8 + size ..])
    let header = Text.Encoding.UTF8.GetBytes header
    File.WriteAllBytes(
        weightsFile folder,
        Array.concat [ BitConverter.GetBytes(int64 header.Length); header; data ]
    )

let editConfig (before: string) (after: string) (folder: string) : unit =
    Expect.stringContains configJson before "the configuration has what is to change"
    File.WriteAllText(Path.Combine(folder, "config.json"), configJson.Replace(before, after))

let generate folder options = json ([ "generate"; "--model"; folder ] @ options)

let ids = [ "--prompt-ids"; "3,4,5" ]
let count n = [ "--max-new-tokens"; string n ]

/// Names of an object's fields with the kinds of their values.
let fields (e: JsonElement) = [ for field in e.EnumerateObject() -> field.Name, field.Value.ValueKind ]

let N, S, A, O = JsonValueKind.Number, JsonValueKind.String, JsonValueKind.Array, JsonValueKind.Object

/// The contract's fields first, in its order; additions may follow.
let hasFields (expected: (string * JsonValueKind) list) (e: JsonElement) =
    Expect.equal (List.truncate expected.Length (fields e)) expected "fields and kinds"

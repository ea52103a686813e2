// Prompts of four kinds of text, for `#load` after options.fsx, by scripts that say which of them drafting pays on.
module Kinds

#if READY
#load "library.fsx"

open System
open System.IO
open System.IO.Compression
open System.Text.Json
open LayerSkip
open Options

let private file (folder: string) (name: string) : string =
    let path = Path.Combine(folder, name)

    if not (File.Exists path) then
        stop 2 $"{path} is not there; give the folder of texts and evaluations, ../shared/data"

    path

let private field (name: string) (line: string) : string =
    use document = JsonDocument.Parse line
    let value = document.RootElement.GetProperty name

    if value.ValueKind = JsonValueKind.Array then
        value[0].GetString()
    else
        value.GetString()

let private unzipped (path: string) : string =
    use stream = new GZipStream(File.OpenRead path, CompressionMode.Decompress)
    use reader = new StreamReader(stream)
    reader.ReadToEnd()

let private lines (text: string) = text.Split('\n', StringSplitOptions.RemoveEmptyEntries)

/// Of each kind `count` prompts of up to `tokens` ids, spread over what there is from `first` on, 0 to 1: two values give other
/// prompts.
let prompts (folder: string) (tokenizer: Tokenizer) (count: int) (tokens: int) (first: float) =
    let file = file folder

    let spread (texts: string seq) =
        let texts = Array.ofSeq texts
        let at index = int ((float index + first) * float texts.Length / float count)
        [ for index in 0 .. count - 1 -> texts[at index] ]

    let books = Path.GetDirectoryName(file "text/gutenberg/Alice-s-Adventures-in-Wonderland_11.txt")

    // Beyond the title and the contents.
    let passage (book: string) = (File.ReadAllText book).Substring(20_000 + int (first * 20_000.0))

    [
        "TinyStories",
        File
            .ReadAllText(file "text/tinystories-valid.txt")
            .Split("<|endoftext|>", StringSplitOptions.TrimEntries)
        |> Array.filter (fun story -> story <> "")
        |> spread
        "Gutenberg", Directory.GetFiles books |> Array.sort |> spread |> List.map passage
        "Spec-Bench",
        File.ReadAllLines(file "eval/spec_bench/question.jsonl")
        |> Seq.map (field "turns")
        |> spread
        "HumanEval",
        unzipped (file "eval/humaneval/HumanEval.jsonl.gz")
        |> lines
        |> Seq.map (field "prompt")
        |> spread
    ]
    |> List.map (fun (kind, texts) ->
        kind,
        texts
        |> List.map (fun text ->
            text[.. min text.Length 4000 - 1] |> Tokenizer.encode tokenizer |> Array.truncate tokens))
#endif

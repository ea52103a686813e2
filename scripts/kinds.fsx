// Prompts of four kinds of text, for `#load` after options.fsx, by scripts that say which of them drafting pays on.
module Kinds

#if READY
#load "data.fsx"

open System
open System.IO
open LayerSkip
open Data

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
        packedLines (file "eval/humaneval/HumanEval.jsonl.gz")
        |> Seq.map (field "prompt")
        |> spread
    ]
    |> List.map (fun (kind, texts) ->
        kind,
        texts
        |> List.map (fun text ->
            text[.. min text.Length 4000 - 1] |> Tokenizer.encode tokenizer |> Array.truncate tokens))
#endif

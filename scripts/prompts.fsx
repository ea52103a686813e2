// Prompts of the kinds of text that drafting is for, for `#load` after options.fsx: questions, stories, books, and code to be edited.
module Prompts

#if READY
#load "data.fsx"

open System
open System.IO
open LayerSkip
open Data
open Options

/// A text before it is ids. A model that chats gets a request as one, and begins its answer as said; others read on.
type private Request = { Set: string; Text: string; IsRequest: bool; Answer: string }

/// So many of them, spread over all.
let private spread (count: int) (all: 'T seq) : 'T list =
    let all = Array.ofSeq all
    [
        for index in 0 .. min count all.Length - 1 -> all[index * all.Length / min count all.Length]
    ]

/// Spec-Bench's six categories: those of MT-bench's are one.
let private questions folder count =
    let single = set [ "translation"; "summarization"; "qa"; "math_reasoning"; "rag" ]

    File.ReadAllLines(file folder "eval/spec_bench/question.jsonl")
    |> Array.groupBy (fun line ->
        let category = field "category" line
        if single.Contains category then category else "multi-turn")
    |> List.ofArray
    |> List.collect (fun (category, lines) ->
        lines
        |> spread count
        |> List.map (fun line -> {
            Set = category
            Text = field "turns" line
            IsRequest = true
            Answer = ""
        }))

let private readOn set (text: string) = { Set = set; Text = text; IsRequest = false; Answer = "" }

let private stories folder count =
    (File.ReadAllText(file folder "text/tinystories-valid.txt"))
        .Split("<|endoftext|>", StringSplitOptions.TrimEntries)
    |> Array.filter (fun story -> story.Length > 200)
    |> spread count
    |> List.map (fun story -> readOn "TinyStories" story[..159])

let private books folder count =
    let first = file folder "text/gutenberg/Alice-s-Adventures-in-Wonderland_11.txt"

    // Beyond the title and the contents.
    Directory.GetFiles(Path.GetDirectoryName first)
    |> Array.sort
    |> spread count
    |> List.map (fun book -> readOn "Gutenberg" ((File.ReadAllText book).Substring(20_000, 1200)))

/// HumanEval's solutions, each with one of four changes asked for: most of the answer stands in the prompt.
let private edits folder count =
    packedLines (file folder "eval/humaneval/HumanEval.jsonl.gz")
    |> spread count
    |> List.mapi (fun index line ->
        let name = field "entry_point" line
        let head = field "prompt" line
        let parameter =
            head.Substring(head.IndexOf $"def {name}(" + name.Length + 5).Split([| ':'; ','; ')' |]).[0]

        let change =
            match index % 4 with
            | 0 -> $"Rename the function {name} to solve."
            | 1 -> $"Rename the parameter {parameter} to given, everywhere."
            | 2 -> "Add a comment above each statement."
            | _ -> "Add type hints to every function."

        {
            Set = "code edit"
            Text =
                $"""{change} Change nothing else, and write the whole code.{"\n"}```python{"\n"}{head.Trim()}{"\n"}{(field "canonical_solution" line).TrimEnd()}{"\n"}```"""
            IsRequest = true
            Answer = "```python\n"
        })

/// `count` prompts of each kind of text, and twice as many of code, each of up to `most` ids, its ending, with BOS where the
/// model has one.
let sets (folder: string) (model: Checkpoint) (count: int) (most: int) : ComparedText list =
    let tokenizer = Checkpoint.tokenizer model |> orStop
    let chats = (Tokenizer.encode tokenizer "<|im_start|>").Length <= 2

    let written (request: Request) =
        if request.IsRequest && chats then
            $"<|im_start|>user\n{request.Text}<|im_end|>\n<|im_start|>assistant\n{request.Answer}"
        elif request.IsRequest then
            $"{request.Text}\n{request.Answer}"
        else
            request.Text

    [
        yield! questions folder count
        yield! stories folder count
        yield! books folder count
        yield! edits folder (2 * count)
    ]
    |> List.groupBy _.Set
    |> List.collect (fun (set, requests) ->
        requests
        |> List.mapi (fun index request ->
            let ids = Tokenizer.encode tokenizer (written request)
            let bos = Option.toArray (Tokenizer.bos tokenizer) |> Array.filter (fun bos -> ids[0] = bos)
            let body = ids[bos.Length ..]
            let kept = body[max 0 (body.Length - most + bos.Length) ..]
            { Set = set; Name = $"{set} {index + 1}"; Prompt = Array.append bos kept }))
#endif

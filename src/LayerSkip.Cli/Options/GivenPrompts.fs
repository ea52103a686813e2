namespace LayerSkip.Cli

open System
open LayerSkip

/// The prompt as the command line gives it.
[<RequireQualifiedAccess>]
type internal GivenPrompt =
    | Text of string
    | Ids of int[]

/// The prompts that a command line gives, of which it may give one. Files are read late, so that several prompts are told of first.
type internal GivenPrompts = private {
    /// The options, and how to read what they give.
    Readers: (string * (unit -> GivenPrompt)) list
    /// The files among them.
    Paths: string list
}

[<RequireQualifiedAccess>]
module internal GivenPrompts =
    let none: GivenPrompts = { Readers = []; Paths = [] }

    let private add name read (given: GivenPrompts) = {
        given with
            Readers = given.Readers @ [ "--" + name, read ]
    }

    /// `--prompt`
    let text (text: string) : GivenPrompts -> GivenPrompts = add "prompt" (fun () -> GivenPrompt.Text text)

    /// `--prompt-ids`
    let ids (ids: string) : GivenPrompts -> GivenPrompts =
        add "prompt-ids" (fun () -> GivenPrompt.Ids(Inputs.numbers "prompt-ids" ids))

    /// `--prompt-file`
    let file (path: string) (given: GivenPrompts) : GivenPrompts =
        let added =
            given
            |> add "prompt-file" (fun () -> GivenPrompt.Text(Inputs.readText "prompt-file" path))
        { added with Paths = path :: given.Paths }

    /// The files that the command reads for its prompt.
    let files (given: GivenPrompts) : string list = given.Paths

    let private options = "--prompt, --prompt-ids or --prompt-file"

    /// The one prompt.
    let one (given: GivenPrompts) : GivenPrompt =
        match given.Readers with
        | [ _, read ] -> read ()
        | [] -> Inputs.usage $"there is no prompt; give one with {options}"
        | several ->
            let names = several |> List.map fst |> String.concat " and "
            Inputs.usage $"{names} exclude each other; give one of {options}"

    /// A prompt's ids; of an empty one the tokenizer's beginning-of-text token.
    let encode (checkpoint: Checkpoint) (prompt: GivenPrompt) : int[] =
        match prompt with
        | GivenPrompt.Text text -> PromptWords.encode checkpoint text
        | GivenPrompt.Ids ids -> Checkpoint.orBos checkpoint ids

    /// What the user should know of a prompt that was encoded.
    let remarks (terminal: Terminal) (checkpoint: Checkpoint) (prompt: GivenPrompt) (ids: int[]) : unit =
        match prompt, checkpoint.Tokenizer with
        | GivenPrompt.Text _, Some tokenizer when Tokenizer.beginsTwice tokenizer ids ->
            let bos = Tokenizer.bos tokenizer |> Option.map (Tokenizer.tokenText tokenizer)

            Terminal.remark
                terminal
                $"the prompt begins with {defaultArg bos String.Empty}, and the tokenizer puts one in front of it: the model reads two; leave it out of the prompt"
        | _ -> ()

namespace LayerSkip

/// What a caller can put right. A shape that cannot happen is a bug, and throws. Cases name the file, tensor or
/// option as the user gave it; `LayerSkipError.message` makes a sentence of them. Sizes are in bytes, positions and
/// tokens count from 0, layers from 1.
[<RequireQualifiedAccess>]
type LayerSkipError =
    /// A file or folder that is not there; `hint` says what would be.
    | NotFound of path: string * hint: string
    /// A file that is there and cannot be used; `fault` says where and why.
    | BadFile of path: string * fault: string
    /// A file or folder that could not be written to its end; `why` says what the system answered.
    | NotWritten of path: string * why: string
    /// A tensor that the configuration calls for and no file holds.
    | MissingTensor of name: string
    /// A tensor that no part of the model asks for.
    | UnknownTensor of name: string
    /// A tensor whose shape is not what the configuration asks for; both are slowest dimension first, [out; in] for a
    /// matrix.
    | WrongShape of name: string * expected: int64 list * found: int64 list
    /// A tensor in a format that holds no floating-point numbers, or that we cannot read.
    | WrongDtype of name: string * found: string * hint: string
    /// NaN or infinity among the weights.
    | NotFinite of name: string
    /// Finite values of a tensor that are infinite in the dtype asked for; `wider` has room for more.
    | BeyondDtype of name: string * dtype: string * wider: string
    /// NaN or infinity in a forward pass over finite weights: in the output of a layer, of the embedding or of the head.
    /// Positions count from 0.
    | Overflow of place: string * position: int * dtype: string
    /// A text after which a constraint lets no token follow, not even one that ends it; `position` is the missing token's.
    | NothingAllowed of position: int
    /// Faults of the tensors in a model folder, whose configuration is another file.
    | InWeights of path: string * faults: LayerSkipError list
    /// Faults of the tensors in a GGUF file, which has its configuration too; named as the file names them.
    | InGguf of path: string * faults: LayerSkipError list
    /// A model, option or format outside what the library does; `hint` says what it does.
    | Unsupported of what: string * hint: string
    /// An option outside its range: "temperature", "-1", "0 or more".
    | OutOfRange of option: string * value: string * allowed: string
    /// An option that another one's value leaves no use for: "draft-length", "3", "strategy", "autoregressive", "it drafts nothing".
    | Excluded of option: string * value: string * other: string * chosen: string * why: string
    /// An exit layer that is not 1 to `layers` - 1, counted from 1.
    | ExitOutsideModel of exit: int * layers: int
    /// An early-exit loss in which no layer counts at a step.
    | NoExitWeight of step: int
    /// A prompt of `length` tokens that leaves no room for one more in `context` positions.
    | PromptTooLong of length: int * context: int
    /// An id outside 0 to `vocabulary` - 1.
    | UnknownToken of id: int * vocabulary: int
    /// A prompt of no tokens, where no BOS takes its place.
    | EmptyPrompt
    /// Memory, in bytes, that the system has not: `what` is to take it, "a cache for 4000 positions".
    | NotEnoughMemory of what: string * bytes: int64 * free: int64
    /// Nothing to train a tokenizer on.
    | NoText
    /// Text was given or asked for, and the model at `path` came without a tokenizer that we read.
    | NoTokenizer of path: string
    /// The same of a GGUF file.
    | NoTokenizerInGguf of path: string
    /// A conversation, where the model at `path` came without a chat template.
    | NoChatTemplate of path: string
    /// Tools for a conversation, where the chat template of the model at `path` would leave them out in silence.
    | NoPlaceForTools of path: string
    /// A conversation that the model's chat template refuses, in the template's own words.
    | ChatRefused of why: string
    /// A device that libtorch does not know, or cannot open: "cuda:1".
    | NoDevice of device: string * why: string
    /// No libtorch could be loaded; `tried` says where we looked and what each place answered.
    | NoBackend of tried: string
    /// The ranks of a parallel run that cannot be joined.
    | NoRanks of why: string
    /// A model, named as the user wrote it, that a hub has not, or not for this user; `why` says what to do.
    | NotOnHub of name: string * why: string
    /// A model that did not come from a hub, and may when it is tried again.
    | HubFailed of name: string * why: string

/// Errors in words, for people: one line each, whatever the files and paths in them hold.
[<RequireQualifiedAccess>]
module LayerSkipError =
    let private shape (dims: int64 list) = dims |> List.map string |> String.concat ", " |> sprintf "[%s]"

    /// The most faults of a line, and about how long they make it beside their places.
    let private most, width = 4, 240

    /// Texts with their places on one line: a place stands before the first of its faults; what does not fit is counted.
    let private listed (faults: (string * string) list) : string =
        let texts =
            List.zip ("" :: List.map fst faults |> List.take faults.Length) faults
            |> List.map (fun (before, (place, fault)) ->
                if place = "" || place = before then
                    fault
                else
                    $"{place}: {fault}")

        let lengths = faults |> List.scan (fun length (_, fault) -> length + fault.Length + 2) 0 |> List.tail

        let fitting = lengths |> List.filter (fun length -> length <= width) |> List.length
        let shown = texts |> List.truncate (fitting |> min most |> max 1)

        match texts.Length - shown.Length with
        | 0 -> String.concat "; " shown
        | more -> $"""{String.concat "; " shown}; and {more} more"""

    /// What faults of weights come from, where that can be said.
    let private advice (faults: LayerSkipError list) =
        let isMismatch (fault: LayerSkipError) =
            fault.IsMissingTensor || fault.IsUnknownTensor || fault.IsWrongShape

        if List.exists isMismatch faults then
            "; the configuration and the weights do not match: take both from one model"
        else
            ""

    /// A piece that a file or a caller gave is cut to a length that a line can hold, whatever was in it.
    let private piece = Printable.cut 400

    /// A path is shown as long as file systems have them in practice: it may be needed whole.
    let private place (path: string) = if path = "" then "\"\"" else Printable.cut 1024 path

    /// The whole numbers from 1 on, as they are allowed: "1 to 3", or "1" alone.
    let oneTo (most: int) : string = if most = 1 then "1" else $"1 to {most}"

    /// A fault with the name that a tensor goes by elsewhere; what names none stays as it is.
    let withTensorNames (rename: string -> string) (error: LayerSkipError) : LayerSkipError =
        match error with
        | LayerSkipError.MissingTensor name -> LayerSkipError.MissingTensor(rename name)
        | LayerSkipError.UnknownTensor name -> LayerSkipError.UnknownTensor(rename name)
        | LayerSkipError.WrongShape(name, expected, found) ->
            LayerSkipError.WrongShape(rename name, expected, found)
        | LayerSkipError.WrongDtype(name, found, hint) -> LayerSkipError.WrongDtype(rename name, found, hint)
        | LayerSkipError.NotFinite name -> LayerSkipError.NotFinite(rename name)
        | LayerSkipError.BeyondDtype(name, dtype, wider) ->
            LayerSkipError.BeyondDtype(rename name, dtype, wider)
        | error -> error

    /// Whether a name is an environment variable's, as HF_ENDPOINT: those are the same in every face.
    let private isVariable (name: string) =
        name |> Seq.forall (fun letter -> System.Char.IsAsciiLetterUpper letter || letter = '_')

    /// A fault with its option spelled as a face has it: `spell` gets the library's name, as "exit-layer". Words that are no
    /// option's name stay words.
    let withOptions (spell: string -> string) (error: LayerSkipError) : LayerSkipError =
        match error with
        | LayerSkipError.OutOfRange(option, value, allowed) when
            not (option.StartsWith '-' || option.Contains ' ' || isVariable option)
            ->
            LayerSkipError.OutOfRange(spell option, value, allowed)
        | LayerSkipError.Excluded(option, value, other, chosen, why) ->
            LayerSkipError.Excluded(spell option, value, spell other, chosen, why)
        | LayerSkipError.ExitOutsideModel(exit, layers) when layers > 1 ->
            let allowed = $"{oneTo (layers - 1)}: the model has {layers} layers"
            LayerSkipError.OutOfRange(spell "exit-layer", string exit, allowed)
        | error -> error

    /// The sentence, before what could steer a terminal is taken out of it.
    let rec private told (error: LayerSkipError) : string =
        match error with
        | LayerSkipError.NotFound(path, hint) -> $"{place path}: not found; {piece hint}"
        | LayerSkipError.BadFile(path, fault) -> $"{place path}: {piece fault}"
        | LayerSkipError.NotWritten(path, why) ->
            $"{place path}: cannot be written: {piece why}; make room, or name another place"
        | LayerSkipError.MissingTensor name -> $"tensor {piece name} is missing"
        | LayerSkipError.UnknownTensor name -> $"tensor {piece name} is not part of this model"
        | LayerSkipError.WrongShape(name, expected, found) ->
            $"tensor {piece name} has shape {piece (shape found)}, the configuration needs {shape expected}"
        | LayerSkipError.WrongDtype(name, found, hint) ->
            $"tensor {piece name} has dtype {piece found}; {piece hint}"
        | LayerSkipError.NotFinite name -> $"tensor {piece name} holds NaN or infinity; the file is damaged"
        | LayerSkipError.BeyondDtype(name, dtype, wider) ->
            $"tensor {piece name} holds values beyond the largest of {dtype}; use dtype {wider}"
        | LayerSkipError.Overflow(place, position, dtype) ->
            let wider = if dtype = "f64" then "" else ", or use a wider dtype"
            $"the output of {piece place} is not finite at position {position} (counted from 0): the model's numbers overflow in {dtype}; check its weights and config.json{wider}"
        | LayerSkipError.NothingAllowed position ->
            $"the constraint lets no token stand at position {position} (counted from 0), nor the text end there; give stop ids that it allows, or another constraint"
        | LayerSkipError.InWeights(path, faults) ->
            listed (faults |> List.map (fun fault -> place path, told fault)) + advice faults
        | LayerSkipError.InGguf(path, faults) ->
            listed (faults |> List.map (fun fault -> place path, toldOfGguf fault))
        | LayerSkipError.Unsupported(what, hint) -> $"{piece what} is not supported; {piece hint}"
        | LayerSkipError.OutOfRange(option, value, allowed) ->
            let found = if value = "" then "empty" else piece value
            $"{piece option} is {found}, it must be {piece allowed}"
        | LayerSkipError.Excluded(option, _, other, chosen, why) ->
            $"{piece option} and {piece other} {piece chosen} exclude each other: {why}; leave one out"
        | LayerSkipError.ExitOutsideModel(exit, layers) when layers < 2 ->
            $"exit layer is {exit}, but a model of one layer has no earlier exit; decode it autoregressively"
        | LayerSkipError.ExitOutsideModel(exit, layers) ->
            $"exit layer is {exit}, it must be {oneTo (layers - 1)}: the model has {layers} layers"
        | LayerSkipError.NoExitWeight step ->
            $"the early-exit loss has no weight on any layer at step {step}; keep the last layer on, or put weight on a layer that is"
        | LayerSkipError.PromptTooLong(length, context) ->
            $"the prompt has {length} tokens and leaves no room in a context of {context}; shorten it to {context - 1} or fewer"
        | LayerSkipError.UnknownToken(id, vocabulary) ->
            $"token id {id} is outside the vocabulary; ids run from 0 to {vocabulary - 1}"
        | LayerSkipError.EmptyPrompt ->
            "the prompt is empty and the tokenizer has no beginning-of-text token; give some text or ids"
        | LayerSkipError.NotEnoughMemory(what, bytes, free) ->
            let gigabytes (bytes: int64) =
                (float bytes / 1e9).ToString("0.0", System.Globalization.CultureInfo.InvariantCulture)
            $"{what} needs {gigabytes bytes} GB of memory, {gigabytes free} GB are free; end other programs, or ask for less: a narrower dtype, a smaller model, a shorter text"
        | LayerSkipError.NoText -> "there is no text to train on; give a text that is not empty"
        | LayerSkipError.NoTokenizer path ->
            $"{place path}: no tokenizer beside the model (tokenizer.json, tokenizer.model, or vocab.json with merges.txt); add one"
        | LayerSkipError.NoTokenizerInGguf path ->
            $"{place path}: the file holds no tokenizer (tokenizer.ggml.model, tokenizer.ggml.tokens); take one that does"
        | LayerSkipError.NoChatTemplate path ->
            $"{place path}: the model has no chat template (chat_template.jinja, \"chat_template\" of tokenizer_config.json, tokenizer.chat_template of a GGUF file); take an instruction-tuned model, as HuggingFaceTB/SmolLM2-135M-Instruct, or give a plain prompt"
        | LayerSkipError.NoPlaceForTools path ->
            $"{place path}: the model cannot be told of tools: its chat template has no place for them; leave them out, or take a model that was trained to call tools"
        | LayerSkipError.ChatRefused why -> $"the model's chat template refuses these messages: {piece why}"
        | LayerSkipError.NoDevice(device, why) -> $"device {piece device} is not available: {why}"
        | LayerSkipError.NoBackend tried -> $"libtorch could not be loaded: {tried}"
        | LayerSkipError.NoRanks why -> $"the ranks cannot be joined: {why}"
        | LayerSkipError.NotOnHub(name, why)
        | LayerSkipError.HubFailed(name, why) -> $"{piece name}: {piece why}"

    // GGUF files have the fastest dimension first.
    and private toldOfGguf (error: LayerSkipError) : string =
        match error with
        | LayerSkipError.WrongShape(name, expected, found) ->
            $"tensor {piece name} has dimensions {piece (shape (List.rev found))}, the file's metadata ask for {shape (List.rev expected)}"
        | error -> told error

    /// One line: what is wrong, where, what to do. What a file or a path put into it is short and steers no terminal.
    let message (error: LayerSkipError) : string = Printable.line (told error)

    /// Whether work failed over input that was good in itself, a computation or a writing: exit code 1 in the command, not 2.
    let isFailure (error: LayerSkipError) : bool =
        error.IsOverflow || error.IsNotWritten || error.IsNotEnoughMemory || error.IsHubFailed

    /// All of them on one line, which stays short: of many the first and how many follow. Faults of one file stand
    /// behind its name once.
    let summary (errors: LayerSkipError list) : string =
        match errors with
        | [ error ] -> message error
        | errors ->
            errors
            |> List.map (fun error ->
                match error with
                | LayerSkipError.BadFile(path, fault) -> place path, piece fault
                | error -> "", told error)
            |> listed
            |> Printable.line

/// Thrown where no Result can go: at the C# edge, and inside a sequence that is being pulled.
type LayerSkipException(errors: LayerSkipError list) =
    inherit System.Exception(LayerSkipError.summary errors)
    /// All of them, in the order in which they were found.
    member _.Errors = errors

/// Checks that gather every fault, not only the first. A reader runs every check that does not follow from another,
/// and joins their faults, so that a file is put right at once and not fault by fault.
[<RequireQualifiedAccess>]
module Check =
    /// Ok when no check failed, otherwise all that did.
    let all (faults: LayerSkipError list) (value: 'T) : Result<'T, LayerSkipError list> =
        if List.isEmpty faults then Ok value else Error faults

    /// The fault, unless something holds.
    let that (holds: bool) (fault: LayerSkipError) : LayerSkipError list = if holds then [] else [ fault ]

    /// What a file has that it may not, alone.
    let bad (path: string) (fault: string) : Result<'T, LayerSkipError list> =
        Error [ LayerSkipError.BadFile(path, fault) ]

    /// What the library does not do, alone; `hint` says what it does.
    let unsupported (what: string) (hint: string) : Result<'T, LayerSkipError list> =
        Error [ LayerSkipError.Unsupported(what, hint) ]

    /// Ends what cannot return a Result by LayerSkipException.
    let throw (error: LayerSkipError) : 'T = raise (LayerSkipException [ error ])

    /// The fault of a value outside what is `allowed`, unless it holds.
    let inRange (holds: bool) (option: string) (value: string) (allowed: string) : LayerSkipError list =
        that holds (LayerSkipError.OutOfRange(option, value, allowed))

    /// The fault of a whole number under the least that is allowed.
    let atLeast (least: int) (option: string) (value: int) : LayerSkipError list =
        inRange (value >= least) option (string value) $"{least} or more"

    /// The result of work, or the errors of the LayerSkipException that ended it.
    let guard (work: unit -> Result<'T, LayerSkipError list>) : Result<'T, LayerSkipError list> =
        try
            work ()
        with :? LayerSkipException as e ->
            Error e.Errors

    /// `LayerSkipError.OutOfRange` alone, as a result.
    let outOfRange (option: string) (value: string) (allowed: string) : Result<'T, LayerSkipError list> =
        Error [ LayerSkipError.OutOfRange(option, value, allowed) ]

    /// The errors of a result, none of a success.
    let faults (result: Result<'T, LayerSkipError list>) : LayerSkipError list =
        match result with
        | Ok _ -> []
        | Error errors -> errors

    /// Does something to each, as long as all goes well. The first that fails ends it: for work with effects, where
    /// `list` is for checks.
    let each
        (act: 'T -> Result<unit, LayerSkipError list>)
        (items: 'T list)
        : Result<unit, LayerSkipError list> =
        let andThen done' item = done' |> Result.bind (fun () -> act item)
        List.fold andThen (Ok()) items

    /// Two values, or the faults of both.
    let both (a: Result<'A, LayerSkipError list>) (b: Result<'B, LayerSkipError list>) =
        match a, b with
        | Ok a, Ok b -> Ok(a, b)
        | _ -> Error(faults a @ faults b)

    /// The values of all results in their order, or every fault of any.
    let list (results: Result<'T, LayerSkipError list> list) : Result<'T list, LayerSkipError list> =
        all (List.collect faults results) (results |> List.choose Result.toOption)

    /// The values where each option has one, else None.
    let every (options: 'T option list) : 'T list option =
        let values = List.choose id options
        if values.Length = options.Length then Some values else None

    /// The value; LayerSkipException with all errors where there is none.
    let getOrRaise (result: Result<'T, LayerSkipError list>) : 'T =
        match result with
        | Ok value -> value
        | Error errors -> raise (LayerSkipException errors)

    /// Throws a LayerSkipException of the faults, where there are any.
    let throwAny (faults: LayerSkipError list) : unit = all faults () |> getOrRaise

    /// Disposes what a failure leaves without an owner.
    let orDispose (owned: System.IDisposable) (result: Result<'T, LayerSkipError list>) =
        if Result.isError result then
            owned.Dispose()

        result

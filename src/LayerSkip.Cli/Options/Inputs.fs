namespace LayerSkip.Cli

open System
open LayerSkip

/// The options that every sub-command has.
type Common = {
    /// None: the project's own.
    Model: string option
    /// Where the model lies that is meant: asked for late, since one that is named is brought then.
    Place: Lazy<string>
    Device: Device
    /// None: auto.
    Dtype: Dtype option
    /// How quantised weights are multiplied.
    Compute: Compute
    /// None: as activations are held.
    Kv: KvFormat option
    Prefill: Prefill
    /// Quantised formats to write.
    Mix: GgufMix option
    Seed: int64
    Json: bool
}

/// What commands share: options' values read and checked, and the model that is meant, loaded.
[<RequireQualifiedAccess>]
module internal Inputs =
    /// Ends the command with exit code 2 and this line.
    let usage (message: string) = raise (UsageException message)

    /// Ends the command with faults in the library's words, where there are any.
    let refuse (faults: LayerSkipError list) : unit = Check.all faults () |> Check.getOrRaise

    /// Ends the command with one fault in the library's words.
    let stop (fault: LayerSkipError) = raise (LayerSkipException [ fault ])

    /// An option's text, which must not be empty: `what` says what it names.
    let notEmpty (option: string) (what: string) (text: string) : string =
        if text = "" then
            usage $"--{option} is empty; name {what}"
        else
            text

    /// The text of an option that must be given.
    let required (option: string) (what: string) (given: string option) : string =
        match given with
        | Some text -> notEmpty option what text
        | None -> usage $"no --{option}; name {what}"

    /// The text of a UTF-8 file that an option names. More than this is a mistake, and endless from a device.
    let readText (option: string) (path: string) : string =
        notEmpty option "a UTF-8 text file" path |> TextFile.readAll 64

    /// "1,2,3", spaces allowed; the empty text is no number. Or what is wrong.
    let tryNumbers (text: string) : Result<int[], string> =
        let items =
            if String.IsNullOrWhiteSpace text then
                [||]
            else
                text.Split(',', StringSplitOptions.TrimEntries)

        match items |> Array.tryFind (Number.tryWhole >> Option.isNone) with
        | Some item ->
            let shown = if item.Length > 40 then item[..39] + "..." else item
            Error $"holds \"{shown}\"; write whole numbers between commas, as 1,2,3"
        | None -> Ok(Array.choose Number.tryWhole items)

    /// The same of an option's value.
    let numbers (option: string) (text: string) : int[] =
        match tryNumbers text with
        | Ok numbers -> numbers
        | Error why -> usage $"--{option} {why}"

    /// A finite number written as in code: 0.5, never 0,5. `allowed` is for the message.
    let real (option: string) (allowed: string) (text: string) : float =
        match Number.tryReal text with
        | Some value -> value
        | None -> usage $"--{option} is \"{text}\", it must be a number, {allowed}; write it as 0.5"

    /// How tokens are chosen: by numbers as they are typed, or by the library's own where none are.
    let sampling
        (temperature: string option)
        (topK: int)
        (topP: string option)
        (minP: string option)
        : Result<Sampling, LayerSkipError list> =
        let orElse standard option allowed text =
            text |> Option.map (real option allowed) |> Option.defaultValue standard

        Sampling.createWith
            (minP |> orElse Sampling.defaultMinP "min-p" "0 (all) to 1")
            (temperature |> orElse Sampling.defaultTemperature "temperature" "0 (greedy) or more")
            topK
            (topP |> orElse Sampling.defaultTopP "top-p" "above 0 and at most 1")

    /// A fault where the value is 0 or less.
    let atLeastOne (option: string) (value: int) : LayerSkipError list =
        Check.that (value >= 1) (LayerSkipError.OutOfRange(option, string value, "1 or more"))

    /// A dtype to load weights in (None is auto: what suits the file and the device), or a mix of formats to write.
    let private dtype (given: string) : Dtype option * GgufMix option =
        let name = given.Trim().ToLowerInvariant()

        match Dtype.all |> List.tryFind (fun dtype -> Dtype.name dtype = name), GgufMix.tryFind name with
        | None, None when name <> "auto" ->
            let mixes = GgufMix.all |> List.map _.Name
            let names = List.map Dtype.name Dtype.all @ mixes |> String.concat ", "
            usage $"--dtype must be auto, {names}, but was '{given}'"
        | found -> found

    /// As `--device` takes it.
    let deviceName (device: Device) =
        match device with
        | Device.Cpu -> "cpu"
        | Device.Cuda -> "cuda"

    /// The model that is meant: the default one where none is named, and what a name on a hub stands for.
    let private placeOf (terminal: Terminal) (isQuiet: bool) (given: string option) : string =
        match given with
        | Some text ->
            let text =
                notEmpty
                    "model"
                    "a Hugging Face model folder, a .gguf file, or a model on the hub as org/name"
                    text
            let bring progress = Hub.locate text progress Threading.CancellationToken.None
            Downloads.wait terminal isQuiet text bring |> Check.getOrRaise
        | None ->
            match DefaultModel.find AppContext.BaseDirectory with
            | Ok path -> path
            | Error message -> usage message

    /// The model that a command reads, where there is one. What a hub's name stands for lies where no output goes.
    let modelPlace (common: Common) : string list =
        match common.Model with
        | Some text when HubName.isMeant text -> []
        | Some path -> [ path ]
        | None -> DefaultModel.find AppContext.BaseDirectory |> Result.toOption |> Option.toList

    /// Reads the common options; sets the number of threads, which is the process's.
    let common (terminal: Terminal) (arguments: Argument list) : Common =
        // A fold, for Argu's own look-ups by quotation take 10 ms each at start-up.
        let add (common: Common) argument =
            match argument with
            | Argument.Model path -> { common with Model = Some path }
            | Argument.Threads count ->
                CpuKernels.setThreads count
                common
            | Argument.Device device -> { common with Device = device }
            | Argument.Dtype name ->
                let dtype, mix = dtype name
                { common with Dtype = dtype; Mix = mix }
            | Argument.Compute compute -> { common with Compute = compute }
            | Argument.Kv kv -> { common with Kv = Some kv }
            | Argument.Prefill prefill -> { common with Prefill = prefill }
            | Argument.Seed seed -> { common with Seed = seed }
            | Argument.Json -> { common with Json = true }
            // The version, and sub-commands.
            | _ -> common

        let none = {
            Model = None
            Place = lazy ""
            Device = Device.Cpu
            Dtype = None
            Mix = None
            Compute = Compute.Auto
            Kv = None
            Prefill = Prefill.Auto
            Seed = GenerationOptions.defaults.Seed
            Json = false
        }

        let given = List.fold add none arguments
        { given with Place = lazy (placeOf terminal given.Json given.Model) }

    /// The same for a command that writes no file of quantised formats.
    let unquantised (common: Common) : Common =
        match common.Mix with
        | Some mix -> usage $"--dtype {mix.Name} is for export; here it is auto, f64, f32, f16 or bf16"
        | None -> common

    /// The options that count for a command; of each other one that is given it says that it has no effect.
    let counting (terminal: Terminal) (command: Argument option) (arguments: Argument list) : Argument list =
        let command = CommonOptions.command command
        let vain = CommonOptions.inVain command
        let inVain = CommonOptions.name >> Option.filter (fun name -> List.contains name vain)

        for option in List.choose inVain arguments do
            Terminal.remark terminal $"--{option} has no effect in {command}"

        arguments |> List.filter (inVain >> Option.isNone)

    /// What computes, and how: "cpu, 2 threads, q4_k, compute float, prefill auto".
    let machine (checkpoint: Checkpoint) =
        let weights = checkpoint.Weights

        String.concat ", " [
            deviceName weights.Device
            Terminal.count (CpuKernels.threads ()) "thread"
            Weights.description weights
            for name in Option.toList (Weights.compute weights) do
                $"compute {name}"
            for kv in Option.toList weights.Kv do
                $"kv {KvFormat.name kv}"
            $"prefill {Prefill.name weights.Prefill}"
        ]

    /// Loads the model in the format and on the device that are asked for, computed and with a cache as asked; every fault of its files at
    /// once.
    let private readAs (format: WeightsFormat) (common: Common) : Checkpoint =
        Checkpoint.loadAs format common.Place.Value common.Device
        |> Result.map (Checkpoint.withCompute common.Compute)
        |> Result.bind (Checkpoint.withKv common.Kv)
        |> Result.map (Checkpoint.withPrefill common.Prefill)
        |> Check.getOrRaise

    /// In the dtype that is asked for, or else as the file has its tensors.
    let read (common: Common) : Checkpoint =
        common
        |> readAs (common.Dtype |> Option.map WeightsFormat.Of |> Option.defaultValue WeightsFormat.AsStored)

    /// What the user should know of a model.
    let remarks (terminal: Terminal) (checkpoint: Checkpoint) : unit =
        checkpoint.Remarks |> List.iter (Terminal.remark terminal)

    /// Loads the model, with remarks.
    let load (terminal: Terminal) (common: Common) : Checkpoint =
        let checkpoint = read common
        remarks terminal checkpoint
        checkpoint

    /// The same, to write it again in the dtype that is asked for: quantised matrices stay as they are until then.
    let loadToWrite (terminal: Terminal) (common: Common) : Checkpoint =
        let format =
            common.Dtype
            |> Option.map WeightsFormat.ToWriteIn
            |> Option.defaultValue WeightsFormat.AsStored
        let checkpoint = readAs format common
        remarks terminal checkpoint
        checkpoint

    /// Ends a command that compares early exits with the whole model where there is none.
    let needEarlierExit (command: string) (checkpoint: Checkpoint) : unit =
        if checkpoint.Config.Layers < 2 then
            usage
                $"{command} needs a model with an earlier exit, and {checkpoint.Path} has one layer; name one of two or more"

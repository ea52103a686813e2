namespace LayerSkip

open System
open System.IO
open System.Reflection
open System.Runtime.InteropServices
open LayerSkip.Kernels
open TorchSharp

/// What computes: a processor, or a GPU through CUDA.
[<RequireQualifiedAccess>]
type Device =
    | Cpu
    | Cuda

/// Where libtorch was found, and how TorchSharp's own library was made to load.
type BackendInfo = {
    /// The folder of libtorch_cpu.so.
    Folder: string
    /// How it was found: "LAYERSKIP_LIBTORCH", "beside the program" or "NuGet cache".
    Origin: string
    /// Whether the TorchSharp library is a copy with one version need marked weak.
    Patched: bool
}

/// Finds libtorch and loads it before TorchSharp looks for it itself.
///
/// TorchSharp 0.107 asks the C++ run-time for the version tag GLIBCXX_3.4.32, which Debian 12 and Ubuntu 22.04
/// lack; no symbol that it uses carries that tag. There we load a copy whose need of it is marked weak.
[<RequireQualifiedAccess>]
module Backend =
    let private variable = "LAYERSKIP_LIBTORCH"
    let private shimName = "libLibTorchSharp.so"
    let private versionNeeded = "GLIBCXX_3.4.32"

    /// The libtorch that this TorchSharp was built against: another one has other functions.
    let internal torchVersion = "2.10"

    let private torchSharp = lazy (typeof<torch.Tensor>.Assembly)
    let private torchSharpVersion () = torchSharp.Value.GetName().Version.ToString 3

    /// NuGet's packages, where it is told to keep them and where it does so untold. Never relative to the current folder,
    /// in which anybody may have put something.
    let private packageFolders () =
        let home = Environment.GetFolderPath Environment.SpecialFolder.UserProfile

        [
            Environment.GetEnvironmentVariable "NUGET_PACKAGES"
            Path.Combine(home, ".nuget", "packages")
        ]
        |> List.filter (fun folder -> not (String.IsNullOrEmpty folder) && Path.IsPathRooted folder)

    /// Versions 2.10.0 and 2.10.1 of a wish for 2.10, newest first; "2.9.1" is older than both, "2.10.0-rc1" than 2.10.0.
    let internal fitting (wanted: string) (versions: string list) : string list =
        let read (version: string) =
            match Version.TryParse(version.Split('-', '+')[0]) with
            | true, number when version = wanted || version.StartsWith(wanted + ".", StringComparison.Ordinal) ->
                Some(struct (number, not (version.Contains '-'), version))
            | _ -> None

        versions
        |> List.choose read
        |> List.sortDescending
        |> List.map (fun (struct (_, _, version)) -> version)

    let private versionsOf (packages: string) (id: string) : string list =
        let folder = Path.Combine(packages, id)

        if Directory.Exists folder then
            Directory.GetDirectories folder |> Array.map Path.GetFileName |> List.ofArray
        else
            []

    /// The native folders of a package's fitting versions in the NuGet cache.
    let private inPackages (id: string) (wanted: string) = [
        for packages in packageFolders () do
            for version in fitting wanted (versionsOf packages id) do
                Path.Combine(packages, id, version, "runtimes", "linux-x64", "native")
    ]

    let private besideProgram () =
        let beside (folder: string) = [ folder; Path.Combine(folder, "runtimes", "linux-x64", "native") ]

        beside AppContext.BaseDirectory
        @ (match Path.GetDirectoryName torchSharp.Value.Location with
           | null
           | "" -> []
           | folder -> beside folder)

    let private holds file folder = File.Exists(Path.Combine(folder, file))

    /// The folder of libtorch and how it was found, or why there is none.
    let private findTorch () =
        match Environment.GetEnvironmentVariable variable with
        | null
        | "" ->
            let places = [
                for folder in besideProgram () -> folder, "beside the program"
                for folder in inPackages "libtorch-cpu-linux-x64" torchVersion -> folder, "NuGet cache"
            ]

            match places |> List.tryFind (fun (folder, _) -> holds "libtorch_cpu.so" folder) with
            | Some place -> Ok place
            | None ->
                let caches = packageFolders () |> String.concat ", "

                Error(
                    $"no libtorch {torchVersion} beside the program or in the NuGet cache ({caches}); "
                    + $"run `dotnet build` in the project, or set {variable} to a folder that holds libtorch {torchVersion} (a Python torch's lib folder will do)"
                )
        | folder when holds "libtorch_cpu.so" folder -> Ok(folder, variable)
        | folder ->
            Error
                $"{variable} names {folder}, which holds no libtorch_cpu.so; name a libtorch lib folder, or unset it"

    /// libtorch's parts in the order in which they need each other; those of CUDA only where they are there.
    let private parts = [
        "libc10.so"
        "libtorch_cpu.so"
        "libc10_cuda.so"
        "libtorch_cuda.so"
        "libtorch.so"
    ]

    let private reason (e: exn) = e.Message.Replace('\n', ' ').Trim()

    let private loadFrom (folder, origin) =
        let shims =
            (if origin = variable then [ folder ] else [])
            @ besideProgram ()
            @ inPackages "torchsharp" (torchSharpVersion ())

        match shims |> List.tryFind (holds shimName) with
        | None ->
            Error $"no {shimName} beside the program or in the NuGet cache; run `dotnet build` in the project"
        | Some shimFolder ->
            try
                // Loaded by full path first: the shim then finds them by name wherever its copy lies.
                for part in parts do
                    if holds part folder then
                        let library = NativeLibrary.Load(Path.Combine(folder, part))

                        if part = "libtorch_cpu.so" then
                            Bfloat16.lend library

                let shim = Path.Combine(shimFolder, shimName)
                let asIs = PatchedLibrary.tryLoadAsIs shim

                match asIs |> Option.orElseWith (fun () -> PatchedLibrary.tryLoad shim versionNeeded) with
                | None ->
                    Error
                        $"{shim} needs a newer C++ run-time than this system's, and no file for a copy that does without could be made in the user's data, in memory or in {Path.GetTempPath()}; set TMPDIR to a folder where programs may lie, or install the C++ run-time of GCC 13"
                | Some loaded ->
                    NativeLibrary.SetDllImportResolver(
                        torchSharp.Value,
                        fun name _ _ ->
                            match name with
                            | "LibTorchSharp"
                            | "torch_cpu"
                            | "torch_cuda" -> loaded
                            | _ -> 0n
                    )

                    Ok { Folder = folder; Origin = origin; Patched = asIs.IsNone }
            with
            | :? DllNotFoundException
            | :? BadImageFormatException
            | :? IOException
            | :? UnauthorizedAccessException as e ->
                Error
                    $"{folder} ({origin}) does not load: {reason e}; install a libtorch {torchVersion} for this system and name its folder in {variable}"

    let private hasCurrentFolder () =
        try
            Directory.GetCurrentDirectory() <> ""
        with :? IOException ->
            false

    // Once a process: two copies of libtorch in one abort it.
    let private loaded =
        lazy
            (if not (RuntimeInformation.IsOSPlatform OSPlatform.Linux) then
                 Ok { Folder = AppContext.BaseDirectory; Origin = "TorchSharp's own search"; Patched = false }
             elif not (hasCurrentFolder ()) then
                 Error
                     "the current folder has been deleted, and Intel's MKL ends a process that has none; change to one that is there (cd)"
             else
                 findTorch () |> Result.bind loadFrom)

    /// Loads libtorch if that has not been done; everything that makes a tensor calls it first. The answer is the same
    /// for the life of the process, a `NoBackend` that says what was tried too.
    let load () : Result<BackendInfo, LayerSkipError list> =
        loaded.Value |> Result.mapError (fun tried -> [ LayerSkipError.NoBackend tried ])

    /// `load`, where no Result can go.
    let ensure () : unit = load () |> Check.getOrRaise |> ignore

    /// The TorchSharp device, or why it is not there (`NoDevice`, `NoBackend`): never another one in silence.
    let tryDevice (device: Device) : Result<torch.Device, LayerSkipError list> =
        load ()
        |> Result.bind (fun info ->
            match device with
            | Device.Cpu -> Ok torch.CPU
            | Device.Cuda ->
                let missing why = Error [ LayerSkipError.NoDevice("cuda", why) ]

                if not (holds "libtorch_cuda.so" info.Folder) then
                    missing
                        $"the libtorch in use ({info.Origin}) is for CPUs; build with `-p:TorchBackend=cuda`, set {variable} to a CUDA libtorch, or use the CPU"
                else
                    try
                        if torch.cuda.is_available () then
                            Ok torch.CUDA
                        else
                            missing "no NVIDIA GPU or driver was found; use the CPU"
                    with e ->
                        missing $"{reason e}; use the CPU")

    /// The most threads that can be asked for, by whatever way.
    let mostThreads = Workers.Most

    /// The fault of a number of threads that `setThreads` would not take.
    let threadsFaults (threads: int) : LayerSkipError list =
        Check.inRange
            (threads >= 1 && threads <= mostThreads)
            "threads"
            (string threads)
            $"1 to {mostThreads}"

    let internal checkThreads (threads: int) : unit = threadsFaults threads |> Check.throwAny

    /// Threads that libtorch's own products use, 1 to `mostThreads`; a LayerSkipException else.
    let setThreads (threads: int) : unit =
        checkThreads threads
        ensure ()
        torch.set_num_threads threads

    /// Threads that libtorch's own products use; a LayerSkipException where libtorch does not load.
    let threads () : int =
        ensure ()
        torch.get_num_threads ()
